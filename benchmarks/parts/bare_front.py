"""The limit for a replica's front of library code: ASGI on uvicorn, gRPC to Triton, no tokenizer.

`python -m benchmarks.parts.bare_front PORT TRITON_GRPC_PORT`. Each response of Triton becomes one
event with text of a fixed length. It admits all, counts nothing and checks nothing.
"""

import json
import struct
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvicorn
import uvloop
from tritonclient.grpc import service_pb2, service_pb2_grpc

from engineshed.triton.engine import MODEL_NAME


class BareFront:
    """The application."""

    def __init__(self, stub: Any) -> None:  # noqa: ANN401 - tritonclient has no types
        self._stub = stub

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401, ARG002 - ASGI's
        request = json.loads((await receive())["body"])
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        message = _message(request["prompt"].encode(), request["max_tokens"])
        async for answer in self._stub.ModelStreamInfer(_once(message)):
            tensors = answer.infer_response.raw_output_contents
            if not tensors:  # the empty one at the end
                continue
            (token,) = struct.unpack("<i", tensors[0])
            event = b'data: {"id":"cmpl-1","choices":[{"index":0,"text":"%c"}]}\n\n' % token
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def _message(prompt: bytes, max_tokens: int) -> Any:  # noqa: ANN401 - a ModelInferRequest
    message = service_pb2.ModelInferRequest(model_name=MODEL_NAME)
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    for name, values in (("input_ids", [*prompt]), ("request_output_len", [max_tokens])):
        message.inputs.add(name=name, datatype="INT32", shape=[1, len(values)])
        message.raw_input_contents.append(struct.pack(f"<{len(values)}i", *values))
    message.outputs.add(name="output_ids")
    return message


async def _once(message: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - a ModelInferRequest
    yield message


async def main() -> None:
    """Serve until killed."""
    port, triton_port = int(sys.argv[1]), int(sys.argv[2])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{triton_port}") as channel:
        config = uvicorn.Config(
            BareFront(service_pb2_grpc.GRPCInferenceServiceStub(channel)),
            port=port,
            http="httptools",
            lifespan="off",
            access_log=False,
            log_level="warning",
        )
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    uvloop.run(main())
