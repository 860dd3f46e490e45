"""One request and its answer: what is known of them, and when what happened.

The data plane makes one for each request. What observes requests hangs on its three moments: it
begins, `send` passes the first part of the answer on, it is `over`.
"""

import time
from typing import Final

import structlog

from engineshed.gateway.dataplane.http import Header, Message, Receive, Scope, Send, header
from engineshed.rpc.call import clean_request_id

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class Exchange:
    """A request that is being answered."""

    __slots__ = (
        "_began",
        "_send",
        "endpoint_id",
        "first_byte_at",
        "method",
        "org_id",
        "path",
        "receive",
        "request_id",
        "scope",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.request_id = clean_request_id(header(scope, b"x-request-id"))
        self.org_id = ""
        self.endpoint_id = ""
        self.first_byte_at = 0.0  # 0: nothing of an answer was sent
        self._began = time.perf_counter()

    @property
    def id_header(self) -> Header:
        """The header of the answer by which its caller may ask about it."""
        return (b"x-request-id", self.request_id.encode())

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if not self.first_byte_at:
            self.first_byte_at = time.perf_counter()
        await self._send(message)

    def over(self, status: int) -> None:
        """Note how it ended."""
        log.info(
            "inference",
            method=self.method,
            path=self.path if status != 404 else "",  # what nobody serves may hold anything
            status=int(status),
            ms=round((time.perf_counter() - self._began) * 1000, 1),
            request_id=self.request_id,
            org=self.org_id,
            endpoint=self.endpoint_id,
        )
