"""One line of a diagnosis, and what several of its parts say."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

GIB: Final = 2**30

IMAGE: Final = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
RUN_IMAGE: Final = (
    "on a GPU host run the agent in NVIDIA's image, whose CUDA wants driver 590.44.01 or newer: "
    f"docker run --gpus all --shm-size=2g --ulimit memlock=-1 --ulimit stack=67108864 {IMAGE}"
)


class Mark(StrEnum):
    """What a line says."""

    OK = "ok"
    WARNING = "warning"
    """It works, but less well, or other than one might expect."""
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was looked for, whether it is there, and how to get it if not."""

    group: str
    name: str
    mark: Mark
    found: str
    hint: str = ""
    """How to get it, or to put it right."""


def gib(count: int) -> str:
    """Return a number of bytes for people, e.g. `139.8 GiB`."""
    return f"{count / GIB:.1f} GiB"
