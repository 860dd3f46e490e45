"""`python -m tests.chaos`: strike a whole stack under load, and count what was promised.

It prints its seed first and, in the end, a table; its status is 1 when something is not zero that
must be. The same seed draws the same faults and the same wishes of the clients; what meets what is
a matter of timing, as it is in life.
"""

import argparse
import asyncio
import logging
import random
import shutil
import sys
import tempfile
from pathlib import Path

import structlog
from tests.chaos.run import Options, Result, run, say
from tests.chaos.world import Shape


def main() -> int:
    """Run as the command line says; return the exit status."""
    arguments = _arguments()
    shape = Shape(arguments.schedulers, arguments.gateways, arguments.agents)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    say(f"seed {arguments.seed}; again with: {_repeat(arguments)}")
    directory = Path(arguments.directory or tempfile.mkdtemp(prefix="chaos-")).absolute()
    result = asyncio.run(run(Options(arguments.seconds, arguments.seed, shape), directory))
    say(_table(result))
    if result.good and not arguments.directory:
        shutil.rmtree(directory, ignore_errors=True)
    elif not result.good:
        say(f"FAILED; the logs are in {directory / 'logs'}")
    return 0 if result.good else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="how long faults go on")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--schedulers", type=int, default=2)
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--agents", type=int, default=2)
    parser.add_argument("--directory", help="where to run, and leave everything")
    return parser.parse_args()


def _repeat(arguments: argparse.Namespace) -> str:
    names = ("seconds", "seed", "schedulers", "gateways", "agents")
    options = " ".join(f"--{name} {getattr(arguments, name):g}" for name in names)
    return f"python -m tests.chaos {options}"


def _table(result: Result) -> str:
    lines = [
        f"{what:<52}{count:>8}"
        + ("" if not must_be_zero else "   ok" if not count else "   MUST BE 0")
        for what, count, must_be_zero in result.rows()
    ]
    return "\n".join(["", *lines, "", *result.details()])


if __name__ == "__main__":
    sys.exit(main())
