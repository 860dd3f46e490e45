"""One stack for all tests that leave it as they found it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.checkpoints import Reference, make_checkpoint
from tests.e2e.stack import Json, Stack, running

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "services" / "engineshed" / "catalog" / "sample"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function, call: pytest.CallInfo[None]) -> Any:
    """Show with a failure what the stacks of the test said last, and which services ended."""
    report = yield
    if report.failed:
        for value in item.funcargs.values():
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, Stack):
                    report.sections.append((f"Stack in {part.directory}", part.last_words()))
    return report


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("shared") / "state", "--slots", "6") as stack:
        yield stack


@pytest.fixture(scope="session")
def sample(stack: Stack) -> Json:
    """The sample model, running in float32."""
    return stack.deploy(stack.register(SAMPLE, "sample")["checkpoint_id"], "sample")


@pytest.fixture(scope="session")
def sample_reference() -> Reference:
    return Reference(SAMPLE)


@pytest.fixture(scope="session")
def foreign_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("foreign") / "qwen2", "qwen2")


@pytest.fixture(scope="session")
def foreign(stack: Stack, foreign_directory: Path) -> Json:
    """A model with an architecture and a tokenizer that the project does not ship."""
    return stack.deploy(stack.register(foreign_directory, "foreign")["checkpoint_id"], "foreign")
