"""`python -m tests.chaos`: strike a whole stack under load, and count what was promised.

It prints its seed first and, in the end, a table; its status is 1 when something is not zero that
must be. The same seed draws the same faults and the same wishes of the clients; what meets what is
a matter of timing, as it is in life.
"""

import argparse
import asyncio
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import structlog

# Set for the program once it runs in a mount namespace of its own, which goes with it.
_OWN_MOUNTS: Final = "CHAOS_OWN_MOUNTS"
_PROBE: Final = (
    "mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && ip netns add probe && "
    "ip -n probe link add probe1 type veth peer name probe2 && "
    "ip netns exec probe iptables -I INPUT -i probe1 -j DROP && ip netns delete probe"
)
_UNSHARE: Final = ("unshare", "--mount", "--propagation", "private")


def main() -> int:
    """Run as the command line says; return the exit status."""
    if _OWN_MOUNTS not in os.environ and _may_mount():
        command = (*_UNSHARE, sys.executable, "-m", "tests.chaos", *sys.argv[1:])
        os.execvpe(command[0], command, {**os.environ, _OWN_MOUNTS: "1"})
    # Before gRPC is imported: its handlers of fork() are in the way of starting the database.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    from tests.chaos.run import Options, run, say
    from tests.chaos.world import Shape

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    arguments = _arguments()
    shape = Shape(
        arguments.schedulers,
        arguments.gateways,
        arguments.agents,
        arguments.database,
        own_hosts=_OWN_MOUNTS in os.environ,
    )
    say(f"seed {arguments.seed}; again with: {_repeat(arguments)}")
    directory = Path(arguments.directory or tempfile.mkdtemp(prefix="chaos-")).absolute()
    options = Options(arguments.seconds, arguments.seed, shape, arguments.between)
    result = asyncio.run(run(options, directory))
    say(result.table())
    if not result.good:
        say(f"FAILED; the logs are in {directory / 'logs'}")
    elif not arguments.directory:
        shutil.rmtree(directory, ignore_errors=True)
    return 0 if result.good else 1


def _may_mount() -> bool:
    """Tell whether hosts can have disks and networks of their own here."""
    if os.geteuid() != 0 or shutil.which(_UNSHARE[0]) is None:
        return False
    done = subprocess.run([*_UNSHARE, "sh", "-c", _PROBE], capture_output=True, check=False)
    return done.returncode == 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="how long faults go on")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--between", type=float, default=2.2, help="seconds, from fault to fault")
    parser.add_argument("--schedulers", type=int, default=2)
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--agents", type=int, default=3)
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--directory", help="where to run, and leave everything")
    return parser.parse_args()


def _repeat(arguments: argparse.Namespace) -> str:
    names = ("seconds", "seed", "between", "schedulers", "gateways", "agents")
    options = " ".join(f"--{name} {getattr(arguments, name):g}" for name in names)
    return f"python -m tests.chaos {options} --database {arguments.database}"


if __name__ == "__main__":
    sys.exit(main())
