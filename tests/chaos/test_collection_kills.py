"""Writers, readers, trims and collectors die at any instruction: nothing that a row names is lost.

Nothing is spared for its age (grace 0): leases alone protect.
"""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.store_bench import StoreBench
from tests.trees import stored
from wtb_ray.collection import Collector
from wtb_ray.db import Database
from wtb_ray.manifests import EMPTY
from wtb_ray.objects import ObjectStore

SEED = int(os.environ.get("WTB_CHAOS_SEED", "20261128"))
EXECUTIONS = 3


@pytest.fixture
def deaths_wanted(request: pytest.FixtureRequest) -> int:
    """How many processes are killed."""
    return 100 if request.config.getoption("--chaos") == "long" else 8


class Workers:
    """Starts processes that may die, some at a time."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(self, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(jobs) + "\n")
        self._process.stdin.flush()
        ends: list[dict[str, Any]] = json.loads(self._process.stdout.readline())
        return ends


@pytest.fixture
def workers() -> Iterator[Workers]:
    command = [sys.executable, "-m", "tests.chaos.collection_worker"]
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Workers(process)


@pytest_asyncio.fixture
async def bench(db: Database) -> AsyncIterator[StoreBench]:
    yield await StoreBench.make(db)


def jobs_of(chance: random.Random, executions: list[str], common: dict[str, Any]) -> Any:
    """Jobs that run at the same time: one that changes the files of each execution, and others."""
    kinds = [(chance.choice(["write", "write", "restore"]), id) for id in executions]
    others = ("read", "trim", "collect", "collect", "tend")
    kinds += [(kind, chance.choice(executions)) for kind in others]
    jobs = []
    for kind, execution in kinds:
        job = {**common, "kind": kind, "execution": execution, "seed": chance.random()}
        how = chance.random()
        if kind == "tend":
            pass
        elif how < 0.2:
            job["dies_at"] = int(chance.uniform(2, 22) ** 2)
        elif how < 0.4:
            job["after_s"] = chance.uniform(0.01, 1.5)
        jobs.append(job)
    return jobs


async def named(db: Database) -> set[str]:
    rows = await db.rows(
        "SELECT manifest FROM steps WHERE manifest IS NOT NULL"
        " UNION SELECT before FROM restores UNION SELECT after FROM restores"
    )
    return {row["manifest"] for row in rows} - {EMPTY}


async def whole(db: Database, base: Path) -> int:
    """Reads every object that any row names."""
    manifests = await named(db)
    async with ObjectStore(f"file://{base}/objects") as objects:
        for manifest in manifests:
            await stored(objects, manifest)
    return len(manifests)


@pytest.mark.timeout(3600)
async def test_processes_that_die_cost_no_object_that_a_row_names(
    bench: StoreBench, url: str, tmp_path: Path, workers: Workers, deaths_wanted: int
) -> None:
    chance = random.Random(SEED)
    executions = [(await bench.execution()).id for _ in range(EXECUTIONS)]
    common = {"url": url, "base": str(tmp_path)}
    deaths: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    while deaths.total() < deaths_wanted:
        for end in workers(jobs_of(chance, executions, common)):
            assert not end["failed"], end
            (deaths if end["died"] else ends)[end["kind"]] += 1
        await whole(bench.db, tmp_path)
    swept = await bench.db.row("SELECT sum(swept)::bigint AS swept FROM collections")
    async with ObjectStore(f"file://{tmp_path}/objects") as objects:
        async with bench.db.connection() as conn:  # nobody lives any more
            await conn.execute("UPDATE object_holds SET until = '-infinity'")
            await conn.execute("UPDATE leases SET until = '-infinity'")
        await Collector(bench.store, objects, actor="last", settled_s=0.0).collect(0.0)
        last = await Collector(bench.store, objects, actor="last", settled_s=0.0).collect(0.0)
        assert last.status == "DONE"
        assert last.marked == last.listed, "garbage is left"
    trees = await whole(bench.db, tmp_path)
    print(
        f"seed {SEED}: died {dict(deaths)}, ended {dict(ends)}, {swept} swept, {trees} trees whole"
    )
