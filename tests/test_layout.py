"""The tree itself: one namespace with two roots, and walls that know every part."""

import tomllib
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOTS = (ROOT / "libs" / "engineshed", ROOT / "services" / "engineshed")


def parts() -> set[str]:
    """Return the import names of all parts that are packages."""
    return {
        f"engineshed.{path.name}"
        for root in ROOTS
        for path in root.iterdir()
        if (path / "__init__.py").exists()
    }


def test_the_two_roots_are_one_namespace_and_share_no_name() -> None:
    names = [path.stem for root in ROOTS for path in root.iterdir() if path.name != "__pycache__"]
    assert len(names) == len(set(names))
    assert not any((root / "__init__.py").exists() for root in ROOTS)
    assert import_module("engineshed.catalog")
    assert import_module("engineshed.eventstore")


def test_every_package_says_that_it_is_typed() -> None:
    packages = [path.parent for root in ROOTS for path in root.rglob("__init__.py")]
    assert packages
    assert [path for path in packages if not (path / "py.typed").exists()] == []


def test_the_walls_know_every_part() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert set(settings["root_packages"]) == parts()
