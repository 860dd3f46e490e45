"""Structured logs: one JSON object a line on standard output."""

import contextlib
import json
import logging
import sys
from typing import Any, Final

import structlog

# Made once: `json.dumps` would make one for every line, since it is told about `default`.
_ENCODER: Final = json.JSONEncoder(default=repr)


def configure_logging(service: str, level: str = "info") -> None:
    """Make every log line JSON with time, level, service and the context that is bound.

    Libraries that log through the standard module come out in the same form. Our own lines do not
    go through that module, which would double what a line costs.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendered: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(serializer=_to_json),
    ]
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: _Lines(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(number, logging.INFO))
    for noisy in ("httpx", "httpcore", "nats", "asyncio", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(service=service)


class _Lines(structlog.WriteLogger):
    """Writes lines as they are; a full disk or a closed pipe costs the line, not the work."""

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError):
            super().msg(message)

    debug = info = warning = error = critical = exception = msg


def _to_json(line: object, **_: Any) -> str:  # noqa: ANN401 - what json.dumps would take
    return _ENCODER.encode(line)
