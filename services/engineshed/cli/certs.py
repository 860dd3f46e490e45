"""`shed certs`: certificates for TLS between the parts, for development."""

import re
import socket
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from engineshed.cli.output import Format, out, print_error, print_rows
from engineshed.runtime import utc_now
from engineshed.runtime.tls import node_name, part_name

PARTS: Final = ("catalog", "scheduler", "gateway", "nats", "postgres")

# So that a stack on one machine needs no further names.
_LOCAL: Final = ("localhost", "127.0.0.1", "::1")
_AGENT: Final = "agent-"
_CLIENT: Final = "client-"
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?")

HELP: Final = (
    "Make a development authority, and a certificate for every part.\n\n"
    "For development and trials: whoever reads DIRECTORY can be any part. In production your own "
    "authority signs. Each certificate must name its part, e.g. scheduler.engineshed.internal; an "
    "agent's names agent.engineshed.internal, its host as in gpu-1.agent.engineshed.internal, and "
    "the address of its replicas.\n\n"
    "Run it again to renew all of them: the authority stays, and so does every name. Give each "
    "process its own key and no other, and keep ca.key here."
)

Directory = Annotated[
    Path, typer.Argument(file_okay=False, help="The folder of certificates and keys.")
]
Nodes = Annotated[
    list[str] | None,
    typer.Option(
        "--node",
        metavar="HOSTNAME",
        help="A GPU host, as its `hostname` says; repeat it. The first time: this machine. Its "
        "agent is known by it, so that nobody else can join as this node.",
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name",
        metavar="PART=NAME",
        help="A host name or address at which others find a part, or a node; repeat it, e.g. "
        "--name nats=nats-1.example.com --name gpu-1=10.0.0.7.",
    ),
]
Clients = Annotated[
    list[str] | None,
    typer.Option(
        "--client", metavar="NAME", help="Somebody else who dials gRPC or NATS; repeat it."
    ),
]
Days = Annotated[int, typer.Option(min=1, max=825, help="How long certificates are valid.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Make a new authority; every part then needs its new files."),
]


def certs(
    directory: Directory,
    nodes: Nodes = None,
    names: Names = None,
    clients: Clients = None,
    days: Days = 90,
    force: Force = False,
) -> None:
    """Make or renew certificates and say what to set; see HELP."""
    from engineshed.cli.authority import Authority, AuthorityError, names_in

    directory = directory.resolve()
    wanted = _wanted(directory, nodes or (), names or (), clients or ())
    now = utc_now()
    try:
        authority = None if force else Authority.open(directory)
        kept = authority is not None
        authority = authority or Authority.create(directory, now)
        expiry = min(now + timedelta(days=days), authority.certificate.not_valid_after_utc)
        for stem, its_names in wanted.items():
            authority.issue(stem, its_names, now, expiry)
    except (AuthorityError, OSError) as error:
        print_error(str(error))
        raise typer.Exit(1) from error
    rows = [
        {"file": f"{stem}.crt", "names": names_in(directory / f"{stem}.crt")} for stem in wanted
    ]
    print_rows(
        rows,
        [("CERTIFICATE", lambda row: row["file"]), ("NAMES", lambda row: ", ".join(row["names"]))],
        Format.TEXT,
    )
    out.print(
        f"\nIn {directory}, each with its .key, valid until {expiry:%Y-%m-%d}; signed by ca.crt, "
        f"{'which stays' if kept else 'which is new'}.\n"
        "For development. Set for each process, e.g. for the catalog:\n"
        f"  ENGINESHED_TLS_CERT_FILE={directory / 'catalog.crt'}\n"
        f"  ENGINESHED_TLS_KEY_FILE={directory / 'catalog.key'}\n"
        f"  ENGINESHED_TLS_CA_FILE={directory / 'ca.crt'}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _wanted(
    directory: Path, nodes: Iterable[str], names: Sequence[str], clients: Iterable[str]
) -> dict[str, list[str]]:
    """Return what each certificate must name, by the stem of its files."""
    hosts = _known(directory, _AGENT, nodes) or [socket.gethostname()]
    wanted = {part: [part_name(part), part, *_LOCAL] for part in PARTS}
    for host in hosts:
        wanted[_AGENT + host] = [part_name("agent"), node_name(host), host, *_LOCAL]
    for client in _known(directory, _CLIENT, clients):
        wanted[_CLIENT + client] = [part_name(f"{client}.client")]
    for item in names:
        part, _, name = item.partition("=")
        stem = part if part in PARTS else _AGENT + part
        if stem not in wanted:
            raise typer.BadParameter(
                f"--name {item}: {part!r} is none of {', '.join([*PARTS, *hosts])}"
            )
        wanted[stem].append(_host(name))
    return wanted


def _known(directory: Path, prefix: str, more: Iterable[str]) -> list[str]:
    """Return those who have a certificate, and then those who are to get one."""
    known = [path.stem.removeprefix(prefix) for path in sorted(directory.glob(f"{prefix}*.crt"))]
    return list(dict.fromkeys([*known, *map(_host, more)]))


def _host(name: str) -> str:
    if not _HOST.fullmatch(name):
        raise typer.BadParameter(f"{name!r} is neither a host name nor an address")
    return name
