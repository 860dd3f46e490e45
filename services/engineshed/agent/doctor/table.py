"""How a diagnosis is printed: a table for people, JSON for programs."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Final

from engineshed.agent.domain.doctor.checks import Check, Mark
from engineshed.agent.domain.doctor.diagnosis import Diagnosis
from engineshed.agent.domain.doctor.facts import Unseen

_HEAD: Final = ("CHECK", "STATE", "FOUND")


def as_table(diagnosis: Diagnosis) -> str:
    """Return the lines by group, below them how to get what is missing, and the summary last."""
    checks = diagnosis.checks
    width = max(len(check.name) for check in checks) + 2
    state = max(map(len, Mark))
    line = f"{{:<{width}}}  {{:<{state}}}  {{}}".format
    lines = [line(*_HEAD)]
    for group, members in groupby(checks, key=lambda check: check.group):
        lines.append(group)
        lines += [line(f"  {check.name}", check.mark, check.found) for check in members]
    return "\n".join((*lines, *_remedies(checks), "", diagnosis.summary))


def as_json(diagnosis: Diagnosis) -> str:
    """Return all of it as one JSON object."""
    offer = None if isinstance(diagnosis.offer, Unseen) else diagnosis.offer
    found = {
        "can_serve": diagnosis.can_serve,
        "summary": diagnosis.summary,
        "gpu_type": offer and offer.gpu_type,
        "gpu_count": offer and offer.count,
        "simulated": offer and offer.simulated,
        "backends": diagnosis.backends,
        "checks": [asdict(check) for check in diagnosis.checks],
    }
    return json.dumps(found, indent=2, ensure_ascii=False)


def _remedies(checks: Sequence[Check]) -> Iterator[str]:
    """Yield each remedy once, with all that it is for."""
    helped: dict[str, list[str]] = {}
    for check in checks:
        if check.hint:
            helped.setdefault(check.hint, []).append(check.name)
    if helped:
        yield ""
        yield "What helps:"
    for hint, names in helped.items():
        yield f"  {', '.join(names)}:"
        yield f"    {hint}"
