"""The most of their memory that GPUs were seen to have in use while an engine was built."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from engineshed.gpus import usage_of

FILE_NAME: Final = "build_memory.json"
"""Beside an engine, and no part of it: two builds of one engine never take the same."""


class MemoryPeak:
    """The peak of the fullest of some GPUs, as far as it is looked at."""

    def __init__(self, uuids: Sequence[str]) -> None:
        self._uuids = list(uuids)
        self._bytes = 0

    def look(self) -> None:
        """Look at the GPUs now; one that does not answer is not asked again."""
        used = {uuid: usage_of(uuid) for uuid in self._uuids}
        self._uuids = [uuid for uuid, usage in used.items() if usage]
        seen = (usage.memory_bytes for usage in used.values() if usage)
        self._bytes = max(self._bytes, *seen, 0)

    def write(self, engine: Path) -> None:
        """Write it beside the engine, if anything was seen."""
        if self._bytes:
            text = json.dumps({"peak_bytes": self._bytes}) + "\n"
            (engine / FILE_NAME).write_text(text, encoding="utf-8")
