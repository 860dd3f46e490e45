"""How far trtllm-build is, by the lines of its log that each rank writes once."""

import re
from pathlib import Path
from typing import Final

MARKS_OF_A_RANK: Final = 5
_MARK: Final = re.compile(
    rb"Total time of constructing network|Total optimization profiles added"
    rb"|Build TensorRT engine|Total time of building Unnamed|Serializing engine to"
)


class Marks:
    """The marks in a log from now on; a line counts when it is whole."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._read = log.stat().st_size
        self._seen = 0

    def seen(self) -> int:
        """Read on, and return how many there were so far."""
        with self._log.open("rb") as file:
            file.seek(self._read)
            lines, newline, _ = file.read().rpartition(b"\n")
        self._read += len(lines) + len(newline)
        self._seen += len(_MARK.findall(lines))
        return self._seen
