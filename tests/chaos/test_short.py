"""A short run of chaos; `make chaos` is the long one."""

from pathlib import Path

from tests.chaos.run import Options, run
from tests.chaos.world import Shape

SEED = 2481  # strikes nearly everything: see what it draws with `make chaos SECONDS=20 SEED=2481`
SECONDS = 20


async def test_struck_for_a_while_the_platform_keeps_what_it_promised(tmp_path: Path) -> None:
    shape = Shape(schedulers=2, gateways=2, agents=2, database="postgresql")

    result = await run(Options(SECONDS, SEED, shape, for_real=0), tmp_path / "state")

    assert result.good, result.table()
