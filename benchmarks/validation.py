"""What checking a request against the rules of its proto takes, on the loop that serves it.

The baseline is protovalidate, which evaluates each rule as a CEL expression.
"""

import time
from collections.abc import Callable
from typing import Final

import protovalidate
from benchmarks.harness import Figure, Report, Target
from google.protobuf.message import Message

from engineshed.api.agent.v1.agent_service_pb2 import ConnectRequest
from engineshed.api.scheduler.v1.endpoint_service_pb2 import CreateEndpointRequest, Replica
from engineshed.rpc.quick_rules import QuickRules

_ULID: Final = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
_ROUNDS: Final = 5


def main() -> None:
    """Measure a few requests."""
    report = Report("validation")
    quick = QuickRules()
    validator = protovalidate.Validator()  # type: ignore[no-untyped-call]  # untyped in the library
    for name, request, target in (
        ("status of a node with 8 replicas", _status(8), None),
        ("status of a node with 64 replicas", _status(64), Target("at most", 3, of="value")),
        ("creation of an endpoint", _creation(), None),
    ):
        if not quick.certainly_keeps(request) or validator.collect_violations(request):
            raise RuntimeError(f"the {name} is not valid")
        value = _milliseconds(quick.certainly_keeps, request, calls=100)
        baseline = _milliseconds(validator.collect_violations, request, calls=5)
        report.add(Figure(name, value, "ms", "protovalidate", baseline, target))
    report.finish()


def _status(replicas: int) -> Message:
    request = ConnectRequest()
    for _ in range(replicas):
        replica = request.status.replicas.add(
            replica_id=f"rep_{_ULID}",
            endpoint_id=f"ep_{_ULID}",
            state=Replica.STATE_READY,
            url="http://127.0.0.1:40000",
        )
        replica.state_age.FromSeconds(60)
    return request


def _creation() -> Message:
    request = CreateEndpointRequest(
        name="support-bot", checkpoint_id=f"ckpt_{_ULID}", gpu_type="cpu", region="local"
    )
    request.scaling.max_replicas = 2
    return request


def _milliseconds(check: Callable[[Message], object], request: Message, calls: int) -> float:
    """Return the least time that a call took on average, of several rounds."""
    rounds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        for _ in range(calls):
            check(request)
        rounds.append((time.perf_counter() - began) / calls)
    return min(rounds) * 1000


if __name__ == "__main__":
    main()
