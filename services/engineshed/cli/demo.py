"""`shed demo`: from the sample checkpoint to a streamed answer, in one command."""

import asyncio
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.rule import Rule

from engineshed.cli.client import Client, Json, find_connection_of
from engineshed.cli.deploy import print_answer
from engineshed.cli.endpoints import ENDPOINTS
from engineshed.cli.output import Format, size
from engineshed.cli.progress import wait_for_checkpoint, wait_for_endpoint
from engineshed.cli.stack.layout import Layout
from engineshed.cli.stack.options import StackError, StackOptions
from engineshed.cli.stack.up import running_stack, stop_signal
from engineshed.cli.watching import print_event

QUESTION: Final = "What is an engine shed?"
NAME: Final = "demo"


async def demo(state_dir: Path, options: StackOptions, console: Console) -> None:
    """Run the whole path once, say where everything is, and stop.

    Raises:
        StackError: it was stopped before the end.
    """
    stop = stop_signal()
    console.print(Rule("1. The stack", align="left"))
    async with running_stack(state_dir, options, console, stop) as layout:
        console.print(f"running at {options.url}")
        walk = asyncio.create_task(asyncio.to_thread(_walk, layout, console))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({walk, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not walk.done():
            walk.cancel()  # its thread ends with the stack, by an error that nobody needs
            raise StackError("stopped before the end; nothing is left running")
        walk.result()
    console.print(Rule("7. Where everything is", align="left"))
    _say_where(layout, console)


def _walk(layout: Layout, console: Console) -> None:
    client = Client(find_connection_of(layout.root))
    console.print(Rule("2. The checkpoint", align="left"))
    checkpoint = _register(client, console)
    console.print(Rule("3. The endpoint", align="left"))
    endpoint = _deploy(client, checkpoint, console)
    console.print(Rule("4. An answer", align="left"))
    console.print(f"[bold]{QUESTION}[/]")
    messages = [{"role": "user", "content": QUESTION}]
    print_answer(client, {"model": endpoint["routing_key"], "messages": messages, "temperature": 0})
    console.print(Rule("5. Lineage", align="left"))
    _show_lineage(client.get(f"{ENDPOINTS}/{endpoint['endpoint_id']}/lineage"), console)
    console.print(Rule("6. History", align="left"))
    for event in client.get(f"{ENDPOINTS}/{endpoint['endpoint_id']}/events")["data"]:
        print_event(event, Format.TEXT)


def _register(client: Client, console: Console) -> Json:
    """Register the sample, or take the one of an earlier run."""
    known = [
        item
        for item in client.list("/v0/checkpoints")
        if item["name"] == NAME and item["status"] == "registered"
    ]
    if known:
        console.print(f"already registered: {known[0]['checkpoint_id']}")
        return known[0]
    sample = Path(__file__).parent.parent / "catalog" / "sample"
    created = client.post("/v0/checkpoints", {"name": NAME, "uri": sample.as_uri()})
    checkpoint = wait_for_checkpoint(client, created["checkpoint_id"], console)
    console.print(
        f"{checkpoint['checkpoint_id']}: {checkpoint['architecture']}, "
        f"{checkpoint['parameter_count']:,} parameters, {size(checkpoint['size_bytes'])}, "
        f"{checkpoint['digest'][:19]}…"
    )
    return checkpoint


def _deploy(client: Client, checkpoint: Json, console: Console) -> Json:
    """Deploy the checkpoint, or wait for the endpoint of an earlier run."""
    usable = ("queued", "provisioning", "running")
    known = [
        item for item in client.list(ENDPOINTS) if item["name"] == NAME and item["status"] in usable
    ]
    if known:
        endpoint = known[0]
        console.print(f"already deployed: {endpoint['endpoint_id']}")
    else:
        endpoint = client.post(
            ENDPOINTS,
            {
                "name": NAME,
                "checkpoint_id": checkpoint["checkpoint_id"],
                "serving": {"precision": "float32"},
            },
        )
    endpoint = wait_for_endpoint(client, endpoint["endpoint_id"], "running", console)
    console.print(f"{endpoint['endpoint_id']} is running: {endpoint['url']}")
    return endpoint


def _show_lineage(lineage: Json, console: Console) -> None:
    endpoint, checkpoint = lineage["endpoint"], lineage["checkpoint"]
    console.print(f"endpoint    {endpoint['endpoint_id']}  {endpoint['routing_key']}")
    for engine in lineage["engines"]:
        console.print(
            f"  engine    {engine['engine_digest'][:19]}…  {engine['engine_backend']}  "
            f"in {engine['replica_id']}"
        )
    console.print(f"  checkpoint  {checkpoint['checkpoint_id']}  {checkpoint['digest'][:19]}…")
    console.print(f"    from      {checkpoint['uri']}", soft_wrap=True, markup=False)


def _say_where(layout: Layout, console: Console) -> None:
    console.print(f"state     {layout.root}", soft_wrap=True, markup=False)
    console.print(f"token     {layout.admin_token}", soft_wrap=True, markup=False)
    console.print(f"logs      {layout.logs}", soft_wrap=True, markup=False)
    console.print("again     make demo   (starts warm: the engine is built)")
    console.print("keep it   make up     (the endpoint comes back by itself)")
