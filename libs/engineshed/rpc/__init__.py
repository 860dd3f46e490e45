"""gRPC the same way in every service: servers, channels, callers, errors."""

from engineshed.rpc.call import Call, caller_metadata, current_call
from engineshed.rpc.client import LEADER, open_channel
from engineshed.rpc.gate import Access
from engineshed.rpc.server import RpcServer
from engineshed.rpc.status import HTTP_STATUS, STATUS, RemoteError, error_from, to_status

__all__ = [
    "HTTP_STATUS",
    "LEADER",
    "STATUS",
    "Access",
    "Call",
    "RemoteError",
    "RpcServer",
    "caller_metadata",
    "current_call",
    "error_from",
    "open_channel",
    "to_status",
]
