"""Put the list of programs and the figures of benchmarks/results/ into docs/benchmarks.md.

Only what lies between the markers is written anew.
"""

import json
from typing import Any, Final

from benchmarks.harness import RESULTS, ROOT, cells, programs

PAGE: Final = ROOT / "docs" / "benchmarks.md"


def main() -> None:
    """Rewrite the page."""
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    page = PAGE.read_text()
    page = _with(page, "programs", _list())
    page = _with(page, "figures", "\n".join(_section(result) for result in results))
    PAGE.write_text(page)
    print(f"{len(results)} results in {PAGE.relative_to(ROOT)}")


def _with(page: str, name: str, text: str) -> str:
    """Return the page with `text` between the markers of that name."""
    begin, end = (
        f"<!-- {name}: written by python -m benchmarks.report -->",
        f"<!-- end of {name} -->",
    )
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n\n{text}\n{end}{rest.partition(end)[2]}"


def _list() -> str:
    rows = [
        f"| `make bench ONLY={name}` | {' '.join(about.split())} |\n"
        for name, about in programs().items()
    ]
    return "| command | measures |\n| --- | --- |\n" + "".join(rows)


def _section(result: dict[str, Any]) -> str:
    machine, load = result["machine"], result["load_average"]
    lines = [
        f"### {result['name']}",
        "",
        f"{result['began_at'][:10]}, commit {result['commit']}, Python {result['python']}, "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB, {machine['cpu']}; load average "
        f"{load['start'][0]} at the start, {load['end'][0]} at the end.",
        "",
        "| figure | value | baseline | ratio | target | met |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
        *("| " + " | ".join(cells(figure)) + " |" for figure in result["figures"]),
        "",
        *(f"Note: {text}\n" for text in result["notes"]),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
