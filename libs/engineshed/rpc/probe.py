"""`python -m engineshed.rpc.probe`: is the process beside this one well? The exit status says so.

For the health checks of containers. ENGINESHED_PROBE says where to ask, with the certificate of the
process itself:

    grpc://<part>@host:port   the server must say that it serves, which a standby does, too
    http[s]://host:port/path  any answer below 500 will do: who refuses, lives
"""

import asyncio
import http.client
import sys
from typing import Final
from urllib.parse import SplitResult, urlsplit

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import Field

from engineshed.rpc.client import open_channel
from engineshed.runtime import TlsSettings
from engineshed.runtime.tls import Tls

SECONDS: Final = 4.0


class ProbeSettings(TlsSettings):
    """What the probe is told through its environment."""

    probe: str = Field(description="Where to ask; see the module.")


async def trouble(settings: ProbeSettings) -> str:
    """Return what is wrong with the process; empty: nothing is."""
    where = urlsplit(settings.probe)
    if not where.hostname or not where.port:
        return f"ENGINESHED_PROBE={settings.probe!r} names no host and port"
    if where.scheme == "grpc":
        return await _grpc_trouble(settings, where)
    if where.scheme in ("http", "https"):
        return await asyncio.to_thread(_http_trouble, settings.tls, where)
    return f"ENGINESHED_PROBE={settings.probe!r} begins neither with grpc:// nor with http[s]://"


async def _grpc_trouble(settings: ProbeSettings, where: SplitResult) -> str:
    address, tls = f"{where.hostname}:{where.port}", settings.tls_to(where.username or "")
    async with open_channel(address, None, "probe", tls=tls) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=SECONDS
            )
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
    serves = answer.status == health_pb2.HealthCheckResponse.SERVING
    return "" if serves else "it does not serve"


def _http_trouble(tls: Tls | None, where: SplitResult) -> str:
    host, port = where.hostname or "", where.port
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    if where.scheme == "https":
        if tls is None:
            return "https:// needs the settings ENGINESHED_TLS_…"
        context = tls.client_context()
        context.check_hostname = False  # it is ourselves, at whatever address
        connection = http.client.HTTPSConnection(host, port, timeout=SECONDS, context=context)
    try:
        connection.request("GET", where.path or "/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error!r}"
    finally:
        connection.close()
    return "" if status < http.client.INTERNAL_SERVER_ERROR else f"it answers {status}"


if __name__ == "__main__":
    sys.exit(asyncio.run(trouble(ProbeSettings())) or 0)
