"""Log lines as the real programs print them."""

import sys
import time
from datetime import datetime
from importlib.metadata import version
from typing import TextIO


def say(text: str, where: TextIO | None = None) -> None:
    """Print a line at once."""
    stream = where or sys.stdout
    stream.write(text + "\n")
    stream.flush()


def announce() -> None:
    """Print what the import of TensorRT-LLM prints."""
    say(f"[TensorRT-LLM] TensorRT-LLM version: {version('tensorrt_llm')}")


def info(message: str) -> None:
    _line("I", message)


def warning(message: str) -> None:
    _line("W", message)


def error(message: str) -> None:
    _line("E", message)


def duration(since: float) -> str:
    """Return the time since a moment of the monotonic clock, as HH:MM:SS."""
    return time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - since))


def _line(level: str, message: str) -> None:
    stamp = datetime.now().strftime("%m/%d/%Y-%H:%M:%S")
    say(f"[{stamp}] [TRT-LLM] [{level}] {message}")
