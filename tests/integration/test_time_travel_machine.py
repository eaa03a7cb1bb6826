"""Random commands, and deaths, over random graphs: what plain LangGraph alone would have done."""

from pathlib import Path

import pytest

from tests.integration.machine_bench import Program
from tests.integration.travel_bench import TravelBench, travel

__all__ = ["travel"]


@pytest.mark.parametrize("seed", range(12))
async def test_random_programs_come_to_what_plain_langgraph_comes_to(
    travel: TravelBench, seed: int, tmp_path: Path
) -> None:
    await Program(travel, seed, kills=seed % 3 > 0, tracked=seed % 4 == 3).run(14)
