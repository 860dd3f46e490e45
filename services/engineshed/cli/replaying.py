"""Having past decisions made again, with a bar, and showing which came out otherwise."""

from datetime import UTC, datetime
from typing import Final

from google.protobuf.json_format import MessageToDict
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from engineshed.api.scheduler.v1 import scheduling_service_pb2 as pb
from engineshed.cli.client import Json
from engineshed.cli.output import Format, err, out, print_json
from engineshed.cli.scheduler import connected
from engineshed.cli.watching import moment

_SIDES: Final = (("recorded", "-", "red"), ("replayed", "+", "green"))


async def tell_differences(since: str, until: str, output: Format) -> bool:
    """Replay, show what comes of it, and return whether anything came out otherwise.

    Raises:
        typer.BadParameter: one of the times is none.
        ApiError: it is refused, or the scheduler cannot be asked.
    """
    now = datetime.now(UTC)
    request = pb.ReplayDecisionsRequest()
    for field, text in ((request.start_time, since), (request.end_time, until)):
        if text:
            field.FromJsonString(moment(text, now))
    said = pb.ReplayDecisionsResponse()
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
    )
    async with connected() as scheduler:
        with bars:
            task = bars.add_task("plans made again", total=None)
            async for said in scheduler.replay(request):
                bars.update(task, completed=said.turns, total=said.turns_total)
    told: Json = MessageToDict(
        said, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    if output is Format.JSON:
        print_json(told)
    else:
        show(told)
    return said.differing_turns > 0


def show(told: Json) -> None:
    """Print the figures, then the first plans that came out otherwise, as a diff."""
    if not int(told["turns_total"]):
        out.print("no plan of that time is kept")
        return
    plans, decisions = int(told["turns"]), int(told["decisions"])
    figures = f"{_counted(plans, 'plan')} with {_counted(decisions, 'decision')} made again: "
    differing = int(told["differing_turns"])
    verdict = f"{differing} came out otherwise" if differing else "all came out the same"
    out.print(Text.assemble(figures, (verdict, "red" if differing else "green")), soft_wrap=True)
    for difference in told["differences"]:
        out.print()
        title = f"{difference['plan_time']}, after event {difference['position']}"
        out.print(Text(title, style="bold"), soft_wrap=True)
        for side, sign, color in _SIDES:
            for line in difference[side]:
                out.print(Text(f"{sign} {line}", style=color), soft_wrap=True)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
