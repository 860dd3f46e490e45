"""A short run of chaos; `make chaos` is the long one."""

from pathlib import Path

from tests.chaos.run import Options, run
from tests.chaos.world import Shape

SEED = 2634  # a leader, an agent, a gateway, a Triton and a whole host are struck
SECONDS = 12


async def test_struck_for_a_while_the_platform_keeps_what_it_promised(tmp_path: Path) -> None:
    shape = Shape(schedulers=2, gateways=2, agents=2, database="postgresql")
    options = Options(
        SECONDS, SEED, shape, on_paper=3, for_real=0, asked=("steady", "revised"), by_load=False
    )

    result = await run(options, tmp_path / "state")

    assert result.good, result.table()
