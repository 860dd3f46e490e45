"""A stand-in for a replica's front: python stand_in_front.py --directory FOLDER.

It speaks ReplicaService as the real one does and serves nothing. It says what it does by the words
in its routing key (`crash-loading`, `fail-loading`, `wrong-gpu`, `drain-end`, `fail-end`,
`slow-end`), and has as many requests as the file `in_flight` in its folder says; if it has none,
since as many seconds as the file `idle` says. Its "Triton" is a child in a session of its own.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration

from engineshed import processes
from engineshed.api.replica.v1 import replica_service_pb2 as pb
from engineshed.api.replica.v1.replica_service_pb2_grpc import (
    ReplicaServiceServicer,
    add_ReplicaServiceServicer_to_server,
)

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class StandInFront(ReplicaServiceServicer):
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.spec = json_format.Parse((directory / "spec.json").read_bytes(), pb.ReplicaSpec())
        own = processes.identify(os.getpid())
        self._state = pb.ReplicaState(
            replica_id=self.spec.replica_id,
            pid=own.pid,
            process_start=own.start_ticks,
            boot_id=own.boot_id,
        )

    def say(self, **changes: object) -> None:
        self._state.MergeFrom(pb.ReplicaState(**changes))  # type: ignore[arg-type]  # test data
        sys.stdout.write(f"phase {pb.Phase.Name(self._state.phase)}\n")
        sys.stdout.flush()
        new = self._directory / "status.json.new"
        new.write_text(json_format.MessageToJson(self._state))
        new.replace(self._directory / "status.json")

    async def GetStatus(
        self, request: pb.GetStatusRequest, context: Context
    ) -> pb.GetStatusResponse:
        await self._authenticate(context)
        in_flight = self._number("in_flight")
        return pb.GetStatusResponse(
            state=self._state,
            in_flight=in_flight,
            in_flight_seconds=self._number("in_flight_seconds"),
            idle_age=Duration(seconds=0 if in_flight else self._number("idle")),
        )

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        await self._authenticate(context)
        self.say(phase=pb.PHASE_DRAINING)
        return pb.DrainResponse(in_flight=self._number("in_flight"))

    async def GetMetrics(
        self, request: pb.GetMetricsRequest, context: Context
    ) -> pb.GetMetricsResponse:
        return pb.GetMetricsResponse()

    async def _authenticate(self, context: Context) -> None:
        metadata = dict(context.invocation_metadata() or ())
        if metadata.get("authorization") != f"Bearer {self.spec.secret}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "not the replica's secret")

    def _number(self, name: str) -> int:
        file = self._directory / name
        return int(file.read_text()) if file.exists() else 0


async def main(directory: Path) -> int:
    front = StandInFront(directory)
    behavior = front.spec.routing_key
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    (directory / "triton.log").write_text("triton says hello\n")
    front.say(phase=pb.PHASE_LOADING)
    if "crash-loading" in behavior:
        os.kill(os.getpid(), signal.SIGKILL)
    if "wrong-gpu" in behavior:
        reason = "built for another GPU"
        front.say(phase=pb.PHASE_FAILED, code="ENGINE_WRONG_GPU", reason=reason, retryable=True)
        return 1
    if "fail-loading" in behavior:
        front.say(phase=pb.PHASE_FAILED, code="TRITON_DIED", reason="it died", retryable=True)
        return 1
    server = grpc.aio.server()
    add_ReplicaServiceServicer_to_server(front, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    triton = subprocess.Popen(["sleep", "600"], start_new_session=True)  # noqa: ASYNC220 - returns at once
    front.say(
        phase=pb.PHASE_READY,
        control_address=f"127.0.0.1:{port}",
        http_url="http://127.0.0.1:1",
        triton_pid=triton.pid,
        kv_cache_tokens=10_000,
        progress=1.0,
    )
    await stop.wait()
    if "drain-end" in behavior:
        front.say(phase=pb.PHASE_DRAINING)
    if "fail-end" in behavior:
        front.say(phase=pb.PHASE_FAILED, code="TRITON_DIED", reason="it died", retryable=True)
    while "slow-end" in behavior and not (directory / "may-end").exists():
        await asyncio.sleep(0.01)
    triton.terminate()
    triton.wait()
    front.say(phase=pb.PHASE_STOPPED)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    sys.exit(asyncio.run(main(parser.parse_args().directory)))
