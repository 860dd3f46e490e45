"""The table of errors."""

from engineshed.errors import Kind
from engineshed.rpc import STATUS


def test_every_kind_of_error_has_a_grpc_and_an_http_status() -> None:
    assert set(STATUS) == set(Kind)
