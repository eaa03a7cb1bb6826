"""Processes die in the middle of building, acquiring and removing environments: no half one is ever
used, and nothing is left of what was cut off."""

import asyncio
import json
import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import host, wheels_bundle
from tests.venv_bench import VenvBench, imported
from wtb_ray import venvs
from wtb_ray.db import Database
from wtb_ray.states import VenvStatus
from wtb_ray.store import Store

__all__ = ["host", "wheels_bundle"]

SEED = int(os.environ.get("WTB_CHAOS_SEED", "20261123"))
AT_ONCE = 3
PATIENCE_S = 60.0


@pytest.fixture
def points(request: pytest.FixtureRequest) -> int:
    """How many processes die."""
    return 100 if request.config.getoption("--chaos") == "long" else 8


class Campaign:
    """A host on which processes die."""

    def __init__(self, host: VenvBench, bundle: str, told: Path, chance: random.Random):
        self.host = host
        self.told = told
        self.chance = chance
        self.common = {
            "data_dir": str(host.data_dir),
            "url": host.url,
            "bundle": bundle,
            "told": str(told),
        }

    def jobs(self) -> list[dict[str, Any]]:
        """Some processes at once, each to die at a moment of its own; the last one lives."""
        jobs = []
        for number in range(AT_ONCE):
            at = self.chance.random() < 0.6
            dies = number < AT_ONCE - 1
            jobs.append(
                {
                    **self.common,
                    "seed": self.chance.randrange(1 << 30),
                    "commands": 4 if dies else 2,
                    "dies_at": int(self.chance.uniform(2, 45) ** 2) if dies and at else 0,
                    "dies_after_s": self.chance.uniform(0.05, 2) if dies and not at else 0,
                }
            )
        return jobs

    def said(self) -> Counter[str]:
        """What became of all that was acquired."""
        lines = self.told.read_text().splitlines() if self.told.exists() else []
        assert [line for line in lines if line.startswith("bad")] == []
        return Counter(lines)

    async def check(self) -> None:
        """After a sweep there is nothing but whole environments, and rows say the same."""
        async with self.host.cache() as cache, Database(self.host.url, size=1) as db:
            async with asyncio.timeout(PATIENCE_S):  # what a dead process started may still run
                while await cache.prune() and self.host.leftovers():
                    await asyncio.sleep(0.1)
            rows = await Store(db).venvs.list()
        there = venvs.listed(self.host.root)
        assert self.host.directories() == sorted(one.path.name for one in there)
        for one in there:
            assert venvs.damaged(one.path) == []
            assert await imported(one.python) == one.record.packages["alpha"]
        ready = {row.path for row in rows if row.status is VenvStatus.READY}
        assert ready == {str(one.path) for one in there}
        assert VenvStatus.BUILDING not in {row.status for row in rows}
        assert not any(row.permanent for row in rows)


@pytest.mark.timeout(3600)
async def test_a_process_that_dies_leaves_no_half_environment(
    host: VenvBench, wheels_bundle: str, tmp_path: Path, points: int
) -> None:
    campaign = Campaign(host, wheels_bundle, tmp_path / "told", random.Random(SEED))
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos.venv_worker"),
        cwd=Path(__file__).parents[2],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert worker.stdin
    assert worker.stdout
    deaths = rounds = cut_off = 0
    while deaths < points:
        worker.stdin.write(f"{json.dumps(campaign.jobs())}\n".encode())
        deaths += sum(json.loads(await worker.stdout.readline()))
        rounds += 1
        cut_off += len(host.leftovers())
        campaign.said()
        if rounds % 5 == 0:
            await campaign.check()
    worker.stdin.close()
    assert await worker.wait() == 0
    await campaign.check()
    said = campaign.said()
    assert said["used"] >= rounds
    print(f"seed {SEED}: {deaths} died in {rounds} rounds, {cut_off} things cut off; {dict(said)}")
