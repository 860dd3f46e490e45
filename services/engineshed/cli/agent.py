"""`shed agent`: what concerns the host that one is on, without a platform."""

import os
import subprocess
import sys
from typing import Annotated

import typer

from engineshed.cli.output import Format, Output

app = typer.Typer(no_args_is_help=True, help="Look at this host, without a platform.")


@app.callback()
def _group() -> None:
    """Make `doctor` a command of a group: Typer would take the only one for the group itself."""


@app.command()
def doctor(
    output: Output = Format.TEXT,
    json: Annotated[bool, typer.Option("--json", help="The same as -o json.")] = False,
) -> None:
    """Say what this host can do: GPUs, Triton, engine back ends, and how to get what is missing.

    It looks at its GPUs, at tritonserver and trtllm-build, PyTorch, memory and limits, and says as
    what the host would join a fleet. It needs no stack and no network, and changes nothing.

    It sees this host as `shed up` would offer it; ENGINESHED_SLOTS, ENGINESHED_SIMULATE and
    ENGINESHED_STATE_DIR say otherwise. On a GPU host run it in the container of the agent, where
    `python -m engineshed.agent doctor` is the same.

    The exit status is 0 when an engine back end works here, and 1 when none does.
    """
    command = [sys.executable, "-m", "engineshed.agent", "doctor"]
    if json or output is Format.JSON:
        command.append("--json")
    as_up_does = {"ENGINESHED_SLOTS": "4", "ENGINESHED_STATE_DIR": ".state"}
    done = subprocess.run(command, env={**as_up_does, **os.environ}, check=False)
    raise typer.Exit(done.returncode)
