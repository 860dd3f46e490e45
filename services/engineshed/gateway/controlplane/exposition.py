"""Pages of metrics in Prometheus' text form, made into one.

This works on lines: prometheus_client's parser and its exposition know counters by the names that
OpenMetrics wants, and those of Triton (`nv_inference_count`) would come out with other names.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

_NAME: Final = "[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL: Final = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\.)*"'
_VALUE: Final = r"[+-]?(?:\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|(?i:inf|nan))"
_TYPE: Final = "counter|gauge|histogram|summary|untyped"
_HEAD: Final = re.compile(rf"# (?:HELP ({_NAME})(?: .*)?|TYPE ({_NAME}) (?:{_TYPE}))")
_SAMPLE: Final = re.compile(
    rf"({_NAME})(?:\{{((?:{_LABEL}(?:,|(?=\}})))*)\}})? ({_VALUE}(?: -?\d+)?)"
)
_ONE_LABEL: Final = re.compile(_LABEL)
_PARTS: Final = ("", "_bucket", "_sum", "_count")
"""What the names of a family's samples may have behind the family's."""


@dataclass(slots=True)
class _Family:
    """All that the pages have of one metric."""

    help: str = ""
    type: str = ""
    samples: list[str] = field(default_factory=list)


def merge(label: str, pages: Iterable[tuple[str, str]], hidden: tuple[str, ...] = ()) -> str:
    """Return one page with the samples of all `pages`, each of them with the value of `label`.

    What is no line of a page of metrics is left out, and so are metrics whose names begin with one
    of `hidden`. Where pages disagree on what a metric is, the first one counts.
    """
    families: dict[str, _Family] = {}
    for value, page in pages:
        _add(families, page, label, value)
    lines = [
        line
        for name, family in families.items()
        if family.samples and not name.startswith(hidden)
        for line in (family.help, family.type, *family.samples)
        if line
    ]
    return "".join(f"{line}\n" for line in lines)


def _add(families: dict[str, _Family], page: str, label: str, value: str) -> None:
    """Add what a page says, whose samples have that label from now on."""
    current = ""
    for line in page.split("\n"):
        if head := _HEAD.fullmatch(line):
            current = head[1] or head[2]
            family = families.setdefault(current, _Family())
            if head[1]:
                family.help = family.help or line
            else:
                family.type = family.type or line
        elif sample := _SAMPLE.fullmatch(line):
            name, given, number = sample.groups(default="")
            kept = [one for one in _ONE_LABEL.findall(given) if not one.startswith(f"{label}=")]
            labels = ",".join((f'{label}="{value}"', *kept))
            of = current if name in [current + part for part in _PARTS] else name
            families.setdefault(of, _Family()).samples.append(f"{name}{{{labels}}} {number}")
