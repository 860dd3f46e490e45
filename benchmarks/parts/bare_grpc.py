"""A gRPC server in Python that knows no method: `python -m benchmarks.parts.bare_grpc PORT`."""

import sys

import grpc
import uvloop


async def main() -> None:
    """Serve until killed."""
    server = grpc.aio.server()
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
