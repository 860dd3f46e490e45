"""Asking a program something, in a process of its own, that ends in time."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from engineshed.triton.launch import engine_environment


class ProcessFailedError(Exception):
    """A process that was asked did not answer; the message is the last that it said."""


def ask(argv: Sequence[str], seconds: float, env: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401 - whatever the program answers
    """Run a program that prints JSON as its last line, and return what that says.

    Args:
        argv: the program and its arguments.
        seconds: how long it may take.
        env: its environment; None: ours, without what is secret.

    Raises:
        ProcessFailedError: it failed, or took longer than `seconds` and was killed.

    """
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=engine_environment() if env is None else env,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ProcessFailedError(f"no answer within {seconds:.0f} s") from error
    except OSError as error:
        raise ProcessFailedError(f"{argv[0]} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        raise ProcessFailedError(_last_line(done.stderr) or f"exit status {done.returncode}")
    return json.loads(_last_line(done.stdout))


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "")
