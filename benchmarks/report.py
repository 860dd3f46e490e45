"""Put the figures of benchmarks/results/ into the table of docs/benchmarks.md.

Only what lies between the two markers is written anew.
"""

import json
from typing import Any, Final

from benchmarks.harness import RESULTS, ROOT, cells

PAGE: Final = ROOT / "docs" / "benchmarks.md"
BEGIN: Final = "<!-- figures: written by python -m benchmarks.report -->"
END: Final = "<!-- end of figures -->"


def main() -> None:
    """Rewrite the page."""
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    sections = "\n".join(_section(result) for result in results)
    PAGE.write_text(f"{before}{BEGIN}\n\n{sections}\n{END}{after}")
    print(f"{len(results)} results in {PAGE.relative_to(ROOT)}")


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
