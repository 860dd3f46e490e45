"""`shed`: the commands, assembled."""

import asyncio
import re
import sys
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from engineshed.cli import (
    agent,
    catalog,
    certs,
    deploy,
    deployment,
    endpoints,
    estimate,
    nodes,
    simulate,
    watching,
)
from engineshed.cli.client import ApiError
from engineshed.cli.output import out, print_error
from engineshed.cli.stack.options import StackError, StackOptions

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Dedicated inference endpoints for fine-tuned checkpoints, on GPUs that you own.\n\n"
    "Start a stack with `shed up`, deploy with `shed deploy`, ask with `shed chat`. "
    "ENGINESHED_URL and ENGINESHED_TOKEN say which platform to use; "
    "without them ENGINESHED_STATE_DIR names the directory of a stack on this machine.",
)
app.add_typer(endpoints.app, name="endpoints")
app.add_typer(catalog.checkpoints, name="checkpoints")
app.add_typer(catalog.tokens, name="token")
app.add_typer(catalog.organizations, name="orgs")
app.add_typer(agent.app, name="agent")


def _like(pattern: str, words: str) -> Callable[[str], str]:
    """Return a check of an option that says in words what it must look like."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise typer.BadParameter(f"{value!r} is not {words}")
        return value

    return check


StateDir = Annotated[
    Path,
    typer.Option(envvar="ENGINESHED_STATE_DIR", file_okay=False, help="Where all is kept."),
]
HttpHost = Annotated[str, typer.Option(help="The address that the gateway listens on.")]
HttpPort = Annotated[int, typer.Option(min=1, max=65535, help="The gateway's port.")]
Region = Annotated[
    str,
    typer.Option(
        callback=_like(r"[a-z][a-z0-9-]{0,62}", "a name such as eu-1"),
        help="What this machine's region is called.",
    ),
]
Slots = Annotated[int, typer.Option(min=1, max=64, help="How many GPUs of type `cpu` to offer.")]
Simulate = Annotated[
    str,
    typer.Option(
        metavar="TYPE:COUNT",
        callback=_like(r"([a-z0-9][a-z0-9.-]{0,62}:[1-9][0-9]{0,3})?", "TYPE:COUNT, as h100-sxm:8"),
        help="Offer GPUs of this type in their place, served by the CPU, e.g. h100-sxm:8.",
    ),
]
Templates = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        resolve_path=True,
        metavar="FILE",
        help="Your own templates, YAML or JSON; see docs/operations.md.",
    ),
]


@app.command()
def up(
    state_dir: StateDir = Path(".state"),
    http_host: HttpHost = "127.0.0.1",
    http_port: HttpPort = 8080,
    region: Region = "local",
    slots: Slots = 4,
    simulate: Simulate = "",
    templates: Templates = None,
) -> None:
    """Run the whole platform on this machine, in the foreground, until Ctrl-C."""
    from engineshed.cli.stack.up import up as run

    options = StackOptions(http_host, http_port, region, slots, simulate, templates)
    _run(run(state_dir.resolve(), options, out))


@app.command()
def demo(state_dir: StateDir = Path(".state"), http_port: HttpPort = 8080) -> None:
    """Take the sample checkpoint to a streamed answer, show every step, and stop."""
    from engineshed.cli.demo import demo as run

    _run(run(state_dir.resolve(), StackOptions("127.0.0.1", http_port, "local", 4, ""), out))


# In the order in which a newcomer needs them.
app.command()(deploy.deploy)
app.command()(estimate.estimate)
app.command()(deploy.chat)
app.command()(watching.logs)
app.command()(watching.events)
app.command()(watching.metrics)
app.command()(endpoints.explain)
app.command()(nodes.nodes)
app.command()(nodes.cordon)
app.command()(nodes.uncordon)
app.command()(nodes.drain)
app.command("remove-node")(nodes.remove_node)
app.command(help=simulate.HELP)(simulate.simulate)
app.command()(catalog.templates)
app.command(help=certs.HELP)(certs.certs)
app.command(help=deployment.HELP)(deployment.secrets)


@app.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if show_version:
        typer.echo(version("engineshed"))
        raise typer.Exit


def _run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def main() -> None:
    """Run the command line; a refusal is one clear message and the exit status 1."""
    try:
        app()
    except (ApiError, StackError) as error:
        print_error(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
