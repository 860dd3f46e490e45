"""Runs the agent: `python -m engineshed.agent`. See `settings` for its environment."""

import os
import sys


def main() -> None:
    """Run the agent as the environment says."""
    # Before gRPC is imported: its handlers of fork() are in the way of starting other programs.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
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
