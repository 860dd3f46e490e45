"""Runs the agent: `python -m engineshed.agent`. See `settings` for its environment.

`python -m engineshed.agent doctor` says what the host can do, and runs nothing.
"""

import argparse
import os
import sys
from typing import Final

_DOCTOR: Final = """\
Say what this host and its image can do: GPUs, Triton, what builds TensorRT-LLM engines, PyTorch,
memory and limits; which engine back ends result, and how to get what is missing. It needs no stack
and no network, changes nothing, and ends after two minutes at the latest, whatever hangs.

It looks at what an agent with the same environment would: ENGINESHED_SLOTS, ENGINESHED_SIMULATE
and ENGINESHED_STATE_DIR (for the disk) count, and no other variable is needed. Run it as the user
and in the container that the agent runs in.

The exit status is 0 when an engine back end works here, 1 when none does, and 2 when a variable
makes no sense.
"""


def main() -> None:
    """Run the agent as the environment says, or look at its host."""
    # Before gRPC is imported: its handlers of fork() are in the way of starting other programs.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    arguments = _parse()
    if arguments.command == "doctor":
        sys.exit(_doctor(json=arguments.json))
    _run()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m engineshed.agent",
        description="Without a command: run the agent of this host, as its environment says.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    doctor = commands.add_parser(
        "doctor",
        help="say what this host can do, and how to get what is missing",
        description=_DOCTOR,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    return parser.parse_args()


def _doctor(*, json: bool) -> int:
    try:
        from engineshed.agent.doctor.command import run_doctor
    except ModuleNotFoundError as error:
        sys.stderr.write(f"error: {error}: pip install 'engineshed[agent]'\n")
        return 1
    return run_doctor(json=json)


def _run() -> None:
    from engineshed.agent.gpus import GpusUnreadableError
    from engineshed.agent.node import AgentRunningError
    from engineshed.agent.process import serve
    from engineshed.agent.settings import AgentSettings
    from engineshed.runtime import configure_logging, run
    from engineshed.telemetry.tracing import configure_tracing

    settings = AgentSettings()
    configure_logging("agent", settings.log_level)
    configure_tracing("agent")
    try:
        run(lambda stop: serve(settings, stop))
    except (AgentRunningError, GpusUnreadableError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
