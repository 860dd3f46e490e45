"""What the agent and the process that builds for it say to each other."""

from dataclasses import dataclass
from typing import Final

CHECKPOINT_FOLDER: Final = "checkpoint"
"""Where an engine keeps the files of its checkpoint."""
DEFAULT_MAX_CONTEXT: Final = 4096
"""The cap of max_context where none is asked for: a long context costs memory for every request."""
DEFAULT_MAX_CONCURRENT: Final = 32
PRECISIONS: Final = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class BuildTask:
    """What to build, in plain values."""

    checkpoint: str
    checkpoint_digest: str
    destination: str
    hardware: str
    max_context: int | None
    precision: str | None
    max_concurrent: int
    max_batch_tokens: int | None = None
