"""A checker that is killed in the middle of its repairs has done each of them whole, or not at all."""

import asyncio
import random
import sys
from pathlib import Path

import pytest

from tests.databases import Databases
from tests.integration.damage_lineage import (
    a_thread_without_an_execution,
    the_checkpoint_that_branches_began_with,
    the_present_branch,
)
from tests.integration.damage_work import (
    a_batch_that_nobody_closed,
    a_cell_whose_execution_was_cancelled,
    a_lease_that_nobody_renews,
)
from tests.integration.integrity_bench import World, copied
from wtb_ray.events import Cursor

KEYS = 300
DAMAGE = (
    a_thread_without_an_execution,
    the_checkpoint_that_branches_began_with,
    the_present_branch,
    a_batch_that_nobody_closed,
    a_cell_whose_execution_was_cancelled,
    a_lease_that_nobody_renews,
)


@pytest.mark.parametrize("seed", range(2))
async def test_repairs_are_whole_whenever_their_process_dies(
    databases: Databases, made_world: tuple[Path, World], tmp_path: Path, seed: int
) -> None:
    async with copied(databases, made_world, f"killed{seed}", tmp_path) as damaged:
        for plant in DAMAGE:
            await plant(damaged)
        await damaged.sql(
            "INSERT INTO idempotency (key, request, created_at)"
            " SELECT 'k' || n, 'r', '2020-01-01' FROM generate_series(1, %s) n",
            KEYS,
        )
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.integration.integrity_worker"),
            *(damaged.url, str(tmp_path)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert worker.stdout is not None
        assert await worker.stdout.readline() == b"checked\n"
        await asyncio.sleep(random.Random(seed).uniform(0.0, 0.6))
        worker.kill()
        await worker.wait()

        told = await damaged.store.events.read(Cursor.START, 10_000, types=["integrity.repaired"])
        report = await damaged.store.integrity.report()
        rows, _ = await damaged.store.integrity.findings(report["id"], 10_000)
        repaired = {row["id"] for row in rows if row["outcome"] == "repaired"}
        assert {event.payload["finding"] for event in told} == repaired
        assert len(told) == len(repaired)
        keys = await damaged.sql("SELECT count(*) FROM idempotency")
        assert KEYS - keys == sum(event.payload["problem"] == "key_unfinished" for event in told)

        again = await damaged.repair()
        assert set(again.counts) <= {"repaired", "gone"}
        assert (await damaged.check(deep=True)).items == []
