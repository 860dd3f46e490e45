"""What a test orders a step to do: `orders.json` in the image's folder, an order for each step.

An order is an object with any of:

    child: true         a process beside it that sleeps for ever
    slow: seconds       lines of progress for so long, before anything else
    text: "..."         this text is printed
    gpu_oom: true       GPU memory is said to be too small
    hang: true          nothing more happens, without using a processor
    spin: true          nothing more happens, while a processor is used
    oom: true           the process is killed as the kernel does when memory is short
    crash: "SIGSEGV"    the process is ended by that signal
    exit: 3             the process ends with that status
    truncate: "short" | "empty" | "missing"    how the last rank's engine is broken (build)
    limits: {...}       what the engine's build_config says, whatever was asked for (build)
    once: true          the order holds once

Programs print a text and go on, unless they are told to end; a model that is told one fails to
load with it. While it serves: `text` fails every request, `hang` is a dead executor behind a
healthy server, `slow` is how long an iteration takes, `crash` and `oom` take the server with them.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, NoReturn

from .logs import say
from .texts import TEXTS

FILE_NAME: Final = "orders.json"
STEPS: Final = ("convert", "quantize", "build", "load", "serve", "tokenizer_info")

Order = dict[str, Any]


def read_order(image: Path, step: str, *, takes: bool = True) -> Order:
    """Return the order for a step; an empty one if there is none.

    `takes` is whether one that holds once is used up by that.
    """
    try:
        orders: dict[str, Order] = json.loads((image / FILE_NAME).read_text())
    except FileNotFoundError:
        return {}
    order = orders.get(step, {})
    if takes and order.get("once"):
        write_orders(image, {name: each for name, each in orders.items() if name != step})
    return order


def write_orders(image: Path, orders: dict[str, Order]) -> None:
    """Put the orders in place of those before, at once."""
    new = image / f"{FILE_NAME}.{os.getpid()}"
    new.write_text(json.dumps(orders))
    new.rename(image / FILE_NAME)


def obey(step: str) -> Order:
    """Do what this command's process is ordered to; return the order, if that leaves it alive."""
    order = read_order(Path(sys.prefix), step)
    if order.get("child"):
        subprocess.Popen(["sleep", "infinity"])
    progress(order.get("slow", 0.0))
    if "text" in order:
        say(order["text"])
    if order.get("gpu_oom"):
        say(TEXTS["gpu_oom"])
        sys.exit(1)
    if order.get("hang"):
        hang()
    if order.get("spin"):
        spin()
    if order.get("oom"):
        end_by(signal.SIGKILL)
    if "crash" in order:
        end_by(signal.Signals[order["crash"]])
    if "exit" in order:
        sys.exit(order["exit"])
    return order


def progress(seconds: float) -> None:
    """Print a line now and then for so long."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        say(f"[TRT-LLM] [I] {left:.1f} s to go")
        time.sleep(min(left, 0.1))


def hang() -> NoReturn:
    """Wait for ever."""
    while True:
        signal.pause()


def spin() -> NoReturn:
    """Use a tenth of a processor for ever."""
    while True:
        busy_until = time.monotonic() + 0.01
        while time.monotonic() < busy_until:
            pass
        time.sleep(0.09)


def end_by(number: signal.Signals) -> NoReturn:
    """End this process by a signal, without a dump of its memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    hang()
