"""`shed secrets`: what containers of compose.yaml get as secrets, but for certificates."""

from pathlib import Path
from typing import Annotated, Final

import typer

from engineshed.cli.output import out, print_error
from engineshed.cli.stack.layout import SERVICES, keep_service_tokens, kept_secret
from engineshed.runtime import write_private
from engineshed.runtime.tls import Tls

# Where containers find what is written here.
_MOUNTED: Final = Path("/run/secrets")
_TLS: Final = Tls(_MOUNTED / "tls.crt", _MOUNTED / "tls.key", _MOUNTED / "ca.crt")

HELP: Final = (
    "Make the tokens, passwords and keys of a deployment with compose.yaml.\n\n"
    "Each process gets its own: tokens of the services, the key of the replicas' secrets, the "
    "database's password and URL, and the broker's configuration with a user for each service. "
    "What is there stays, so run it again after an upgrade: users that are new are added.\n\n"
    "Certificates come from `shed certs` or from your own authority."
)

Directory = Annotated[Path, typer.Argument(file_okay=False, help="The folder of the secrets.")]
Nats = Annotated[
    list[str] | None,
    typer.Option(
        "--nats",
        metavar="HOST",
        help="A node of the NATS cluster; repeat it. By default nats-1, nats-2 and nats-3.",
    ),
]
Postgres = Annotated[str, typer.Option(metavar="HOST:PORT", help="Where services find PostgreSQL.")]


def secrets(directory: Directory, nats: Nats = None, postgres: Postgres = "postgres:5432") -> None:
    """Write what is missing; see HELP."""
    directory = directory.resolve()
    try:
        keep_service_tokens(directory, directory / "services.json")
        for name, prefix in (("replica.key", "key"), ("metrics.token", "metrics")):
            kept_secret(directory / name, prefix)
        _write_database(directory, postgres)
        _write_broker(directory, nats or ["nats-1", "nats-2", "nats-3"])
    except OSError as error:
        print_error(str(error))
        raise typer.Exit(1) from error
    out.print(
        f"Secrets of {', '.join(SERVICES)}, PostgreSQL and NATS are in {directory}, readable by "
        "you alone; containers must run as you to read them.\nWithout certificates there yet? "
        f"shed certs {directory}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _write_database(directory: Path, postgres: str) -> None:
    password = kept_secret(directory / "postgres.password", "pg")
    url = (
        f"postgresql://engineshed:{password}@{postgres}/engineshed?sslmode=verify-full"
        f"&sslrootcert={_TLS.authority}&sslcert={_TLS.certificate}&sslkey={_TLS.key}"
    )
    write_private(directory / "database.url", url.encode())


def _write_broker(directory: Path, nodes: list[str]) -> None:
    from engineshed.bus.cluster import CLIENT_PORT, cluster_config
    from engineshed.bus.permissions import USERS

    passwords = {
        user: kept_secret(directory / f"nats-{user}.password", f"nats_{user}") for user in USERS
    }
    first, *others = [f"{node}:{CLIENT_PORT}" for node in nodes]
    for user, password in passwords.items():
        urls = [f"nats://{user}:{password}@{first}", *(f"nats://{other}" for other in others)]
        write_private(directory / f"nats-{user}.url", ",".join(urls).encode())
    route = kept_secret(directory / "nats-route.password", "nats_route")
    config = cluster_config(nodes, passwords, route, _TLS, "/data")
    write_private(directory / "nats.conf", config.encode())
