"""Which processes make a stack, and how each is started."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engineshed.bus.embedded import command as nats_command
from engineshed.bus.embedded import write_config
from engineshed.cli.stack.layout import METRICS, Layout
from engineshed.cli.stack.options import StackOptions

# What a deployment on several hosts sets. Here all is on one, with a broker of its own.
_OTHERS: Final = ("ENGINESHED_TLS_", "ENGINESHED_NATS_URL")


@dataclass(frozen=True, slots=True)
class Program:
    """A process that must run."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]


def programs(layout: Layout, options: StackOptions) -> list[Program]:
    """Return the stack's processes in the order of their start; writes their configuration."""
    ports = layout.ports(options.http_port)
    write_config(layout.root, ports["nats"])
    ours = {name: value for name, value in os.environ.items() if not name.startswith(_OTHERS)}
    environment = {**ours, "ENGINESHED_STATE_DIR": str(layout.root)}
    nats = Program("nats", nats_command(layout.root), environment)
    common = {
        **environment,
        "ENGINESHED_CATALOG_ADDRESS": f"127.0.0.1:{ports['catalog']}",
        "ENGINESHED_SCHEDULER_ADDRESS": f"127.0.0.1:{ports['scheduler']}",
        "ENGINESHED_SERVICES_FILE": str(layout.services_file),
        "ENGINESHED_METRICS_TOKEN_FILE": str(layout.metrics_token),
        "ENGINESHED_REGION": options.region,
        "ENGINESHED_ARTIFACT_STORE": layout.artifacts.as_uri(),
        # Ours come from the virtual environment that this process runs in.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    own: dict[str, dict[str, str]] = {
        "catalog": {
            "ENGINESHED_LISTEN": common["ENGINESHED_CATALOG_ADDRESS"],
            "ENGINESHED_BOOTSTRAP_TOKEN_FILE": str(layout.admin_token),
        },
        "scheduler": {
            "ENGINESHED_LISTEN": common["ENGINESHED_SCHEDULER_ADDRESS"],
            "ENGINESHED_REPLICA_KEY_FILE": str(layout.replica_key),
        },
        "agent": {
            "ENGINESHED_SLOTS": str(options.slots),
            "ENGINESHED_SIMULATE": options.simulate,
        },
        "gateway": {
            "ENGINESHED_HTTP_HOST": options.http_host,
            "ENGINESHED_HTTP_PORT": str(options.http_port),
            "ENGINESHED_PUBLIC_HOST": f"localhost:{options.http_port}",
        },
    }
    if options.templates:
        own["catalog"]["ENGINESHED_TEMPLATES"] = str(options.templates)
    for name in METRICS:
        own[name]["ENGINESHED_METRICS_LISTEN"] = f"127.0.0.1:{ports[f'{name}-metrics']}"
    return [nats, *(_service(layout, name, {**common, **extra}) for name, extra in own.items())]


def _service(layout: Layout, name: str, environment: dict[str, str]) -> Program:
    url = (layout.credentials / f"nats-{name}.url").read_text().strip()
    environment["ENGINESHED_NATS_URL"] = url
    environment["ENGINESHED_SERVICE_TOKEN_FILE"] = str(layout.token_file(name))
    return Program(name, [sys.executable, "-m", f"engineshed.{name}"], environment)
