"""Long random programs of commands and deaths over random graphs, against plain LangGraph."""

import os
from pathlib import Path

import pytest

from tests.integration.machine_bench import Program
from tests.integration.travel_bench import TravelBench

SEED = int(os.environ.get("WTB_CHAOS_SEED", "20261123")) % 100_000
COMMANDS = 45


@pytest.mark.timeout(3600)
async def test_long_programs_come_to_what_plain_langgraph_comes_to(
    url: str, tmp_path: Path, programs: int
) -> None:
    for number in range(programs):
        async with TravelBench.open(url, tmp_path / str(number)) as travel:
            kills, tracked = number % 3 < 2, number % 3 == 0
            await Program(travel, SEED + number, kills=kills, tracked=tracked).run(COMMANDS)
