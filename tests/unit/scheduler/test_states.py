"""The states in memory are those of the contract."""

from engineshed.api.scheduler.v1 import endpoint_service_pb2 as api
from engineshed.api.scheduler.v1 import node_service_pb2 as node_api
from engineshed.scheduler.domain.endpoint import EndpointState
from engineshed.scheduler.domain.node import NodeState
from engineshed.scheduler.domain.replica import ReplicaState


def test_they_have_the_names_and_numbers_of_the_proto() -> None:
    for states, contract in (
        (EndpointState, api.Endpoint.State),
        (ReplicaState, api.Replica.State),
        (NodeState, node_api.Node.State),
    ):
        named = {f"STATE_{state.name}": state.value for state in states}
        assert named == {name: number for name, number in contract.items() if number}
