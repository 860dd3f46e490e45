"""Run the benchmarks one after another: all, or those that are named.

Every file directly in this folder is a program, but for the harness and the report.
"""

import subprocess
import sys

from benchmarks.harness import ROOT, programs, python_module


def main() -> int:
    """Run the programs named on the command line; return 1 if one of them failed."""
    known = list(programs())
    wanted = sys.argv[1:] or known
    if unknown := [name for name in wanted if name not in known]:
        print(f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(known)}")
        return 2
    failed = [name for name in wanted if not _succeeds(name)]
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def _succeeds(name: str) -> bool:
    print(f"== {name}", flush=True)
    done = subprocess.run(python_module(f"benchmarks.{name}"), cwd=ROOT, check=False)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
