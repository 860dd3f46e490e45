"""`shed up`: the whole platform on this machine, in the foreground."""

import asyncio
import fcntl
import os
import shlex
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import httpx
from rich.console import Console
from rich.text import Text

from engineshed.cli.stack.layout import Layout, why_not_free
from engineshed.cli.stack.options import StackError, StackOptions
from engineshed.cli.stack.programs import programs
from engineshed.cli.stack.supervisor import Supervisor
from engineshed.runtime import write_private

START_SECONDS: Final = 120.0


@asynccontextmanager
async def running_stack(
    state_dir: Path, options: StackOptions, console: Console, stop: asyncio.Event
) -> AsyncIterator[Layout]:
    """Run a stack for the time of the block, from when the gateway answers.

    Raises:
        StackError: another stack runs in the directory, the port is taken, the templates make no
            sense, it does not start, or `stop` was set meanwhile.
    """
    if options.templates:
        await _check(options.templates)
    layout = Layout(state_dir)
    with _locked(layout):
        layout.prepare()
        if why := why_not_free(options.http_host, options.http_port):
            raise StackError(
                f"cannot listen on port {options.http_port} of {options.http_host}: {why}; "
                "choose another with --http-port"
            )
        write_private(layout.gateway_url, options.url.encode())
        supervisor = Supervisor(
            layout,
            programs(layout, options),
            lambda text: console.print(Text(text, style="yellow"), soft_wrap=True),
        )
        end = asyncio.Event()
        running = asyncio.create_task(supervisor.run(end))
        try:
            with console.status("starting nats, catalog, scheduler, agent and gateway"):
                await _until_ready(options.url, layout, stop)
            yield layout
        finally:
            end.set()
            await running


async def up(state_dir: Path, options: StackOptions, console: Console) -> None:
    """Run a stack until SIGTERM, SIGINT or SIGHUP."""
    stop = stop_signal()
    async with running_stack(state_dir, options, console, stop) as layout:
        welcome(layout, options, console)
        await stop.wait()
        console.print("stopping…")
    console.print("stopped; nothing is left running")


def stop_signal() -> asyncio.Event:
    """Return an event that SIGTERM, SIGINT and SIGHUP set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    return stop


def welcome(layout: Layout, options: StackOptions, console: Console) -> None:
    """Say where everything is and what to try next."""
    console.print()
    console.print(f"[bold green]Engineshed is up[/] at [bold]{options.url}[/]  (API docs: /docs)")
    token = layout.admin_token.read_text().strip()
    shed = "shed" if shutil.which("shed") else str(Path(sys.executable).with_name("shed"))
    for line in (
        f"  token    {token}  (in {layout.admin_token})",
        f"  events   {layout.root / 'nats.url'}  (a read-only subscriber)",
        f"  logs     {layout.logs}",
        "\nTry next, in another terminal:",
        f"  export ENGINESHED_STATE_DIR={shlex.quote(str(layout.root))}",
        f"  {shed} deploy engineshed/sample --name hello --wait",
        f"  {shed} chat hello 'What is an engine shed?'",
        f"  {shed} endpoints list",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print("\nCtrl-C stops everything.")


async def _check(templates: Path) -> None:
    """Let the catalog's own reader say what is wrong, before anything is started.

    Raises:
        StackError: the file is none of templates.

    """
    command = (sys.executable, "-m", "engineshed.catalog.template_file", str(templates))
    reading = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, complaint = await reading.communicate()
    if reading.returncode:
        raise StackError(complaint.decode(errors="replace").strip())


async def _until_ready(url: str, layout: Layout, stop: asyncio.Event) -> None:
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
        while True:
            try:
                answer = await client.get(f"{url}/healthz")
            except httpx.HTTPError:
                answer = None
            if answer is not None and answer.status_code == httpx.codes.OK:
                return
            if stop.is_set():
                raise StackError("stopped while it was starting")
            if asyncio.get_running_loop().time() > deadline:
                raise StackError(
                    f"the stack was not ready within {START_SECONDS:g} s; see the logs in "
                    f"{layout.logs}"
                )
            await asyncio.sleep(0.1)


@contextmanager
def _locked(layout: Layout) -> Iterator[None]:
    """Hold the state directory; the kernel lets go of it when this process dies."""
    try:
        layout.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StackError(
            f"cannot write to {layout.root}: {error.strerror}; choose another directory with "
            "--state-dir"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            other = os.pread(descriptor, 32, 0).decode().strip()
            raise StackError(
                f"a stack (process {other}) already runs in {layout.root}; stop it first, or "
                "choose another directory with --state-dir"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)
