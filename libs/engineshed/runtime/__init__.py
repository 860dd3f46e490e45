"""How a service starts, logs and ends."""

from engineshed.runtime.files import write_private
from engineshed.runtime.logs import configure_logging
from engineshed.runtime.main import run, supervise, unless
from engineshed.runtime.settings import CommonSettings, TlsSettings
from engineshed.runtime.times import from_timestamp, to_timestamp, utc_now

__all__ = [
    "CommonSettings",
    "TlsSettings",
    "configure_logging",
    "from_timestamp",
    "run",
    "supervise",
    "to_timestamp",
    "unless",
    "utc_now",
    "write_private",
]
