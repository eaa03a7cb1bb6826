"""Results: parts and rows together hold every cell once, whatever happens at the same time."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import pytest_asyncio

from tests.integration.store_bench import EXACT, RIGHT, StoreBench
from wtb_ray import errors, results
from wtb_ray.db import Database
from wtb_ray.model import Fault, Score
from wtb_ray.objects import ObjectStore, key_of

FAULT = Fault(code="node_failed", type="ValueError", message="no", node="answer")


@pytest_asyncio.fixture
async def objects(tmp_path: Path) -> AsyncIterator[ObjectStore]:
    async with ObjectStore(f"file://{tmp_path}/objects") as store:
        yield store


async def started(bench: StoreBench, cases: int = 3, variants: int = 2) -> str:
    """A batch whose cells all run."""
    await bench.runner()
    batch = await bench.batch(cases, variants)
    await bench.store.executions.admit(batch.id, cases * variants, actor="scheduler")
    return batch.id


async def end(bench: StoreBench, count: int = 100) -> None:
    """Ends this many cells: every third by a fault, the others with a score."""
    held = await bench.claim(limit=count)
    for i, item in enumerate(held):
        if i % 3 == 2:
            assert await bench.settle(item, "fail", fault=FAULT) is None
        else:
            assert await bench.settle(item, "complete", scores=RIGHT, latency_ms=5.0) is None


async def parts(db: Database, batch_id: str) -> list[dict[str, Any]]:
    return await db.rows(
        "SELECT number, digest, rows FROM result_parts WHERE batch_id = %s ORDER BY number",
        (batch_id,),
    )


async def rescore(db: Database, batch_id: str, cell: int, value: float) -> None:
    """What a command that takes a cell back does, and the cell ending again after it."""
    async with db.transaction() as conn:
        await conn.execute("SELECT FROM batches WHERE id = %s FOR NO KEY UPDATE", (batch_id,))
        await conn.execute("UPDATE cells SET status = 'SCORING' WHERE id = %s", (cell,))
        await conn.execute("DELETE FROM scores WHERE cell_id = %s", (cell,))
        await results.unseal(conn, batch_id, [cell])
    async with db.transaction() as conn:
        await conn.execute("UPDATE cells SET status = 'DONE' WHERE id = %s", (cell,))
        await conn.execute(
            "INSERT INTO scores (batch_id, cell_id, scorer, scorer_digest, metric, value)"
            " VALUES (%s, %s, 'exact', %s, 'exact', %s)",
            (batch_id, cell, EXACT.digest(), value),
        )


def same(a: results.Frames, b: results.Frames) -> bool:
    def ordered(frames: results.Frames) -> pl.DataFrame:
        return frames.scores.sort("cell", "metric")

    return a.cells.equals(b.cells) and ordered(a).equals(ordered(b)) and a.digest == b.digest


async def test_a_frame_has_all_cells_and_their_scores(
    bench: StoreBench, db: Database, objects: ObjectStore
) -> None:
    batch_id = await started(bench)
    await end(bench, 3)
    cells, scores, _, status = await results.frame(db, objects, batch_id)
    assert status == "RUNNING"
    assert cells.schema == results.CELLS
    assert scores.schema == results.SCORES
    assert cells["ordinal"].to_list() == list(range(6))
    assert cells.sort("ordinal").select("variant", "case", "repetition").rows() == [
        (variant, case, 0) for case in ("c0", "c1", "c2") for variant in ("v0", "v1")
    ]
    assert cells["status"].value_counts().sort("status").rows() == [
        ("DONE", 2),
        ("FAILED", 1),
        ("RUNNING", 3),
    ]
    failed = cells.filter(pl.col("status") == "FAILED").row(0, named=True)
    assert (failed["error"], failed["message"]) == ("node_failed", "no")
    done = cells.filter(pl.col("status") == "DONE")
    assert done["ended_at"].null_count() == 0
    assert scores.rows() == [
        (cell, "exact", EXACT.digest(), "exact", 1.0, "same") for cell in done["cell"]
    ]


async def test_sealing_changes_neither_results_nor_their_digest(
    bench: StoreBench, db: Database, objects: ObjectStore
) -> None:
    batch_id = await started(bench)
    await end(bench, 4)
    before = await results.frame(db, objects, batch_id)
    (part,) = await results.export(db, objects, batch_id)
    assert (part.number, part.rows) == (1, 4)
    assert same(await results.frame(db, objects, batch_id), before)
    assert await results.digest_of(db, batch_id) == before.digest
    assert await results.export(db, objects, batch_id) == []
    await end(bench)
    rows_only = await results.frame(db, objects, batch_id)
    (part,) = await results.export(db, objects, batch_id)
    assert (part.number, part.rows) == (2, 2)
    assert same(await results.frame(db, objects, batch_id), rows_only)


async def test_a_part_is_a_parquet_file_that_others_can_read(
    bench: StoreBench, db: Database, objects: ObjectStore
) -> None:
    batch_id = await started(bench)
    await end(bench, 3)
    (part,) = await results.export(db, objects, batch_id)
    data = await objects.get(part.digest)
    assert len(data) == part.bytes
    assert pl.read_parquet_metadata(io.BytesIO(data))["wtb_ray.batch"] == batch_id
    frame = pl.read_parquet(io.BytesIO(data))
    assert frame.columns == [*results.CELLS, "scores"]
    assert frame.sort("status")["scores"].to_list() == [
        [
            {
                "scorer": "exact",
                "scorer_digest": EXACT.digest(),
                "metric": "exact",
                "value": 1.0,
                "explanation": "same",
            }
        ],
    ] * 2 + [[]]


async def test_small_tails_can_be_left_in_the_rows(
    bench: StoreBench, db: Database, objects: ObjectStore
) -> None:
    batch_id = await started(bench)
    await end(bench, 3)
    assert await results.export(db, objects, batch_id, at_least=4) == []
    assert len(await results.export(db, objects, batch_id, at_least=3)) == 1


async def test_many_cells_make_several_parts(
    bench: StoreBench, db: Database, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "PART_CELLS", 4)
    batch_id = await started(bench)
    await end(bench)
    before = await results.frame(db, objects, batch_id)
    assert [part.rows for part in await results.export(db, objects, batch_id)] == [4, 2]
    assert same(await results.frame(db, objects, batch_id), before)


class Meeting(ObjectStore):
    """An object store in which puts wait for each other: all callers are between read and write."""

    def __init__(self, url: str, callers: int):
        super().__init__(url)
        self.arrived = asyncio.Semaphore(0)
        self.go = asyncio.Event()
        self.callers = callers

    async def put(self, data: bytes) -> str:
        digest = await super().put(data)
        self.arrived.release()
        await self.go.wait()
        return digest

    async def meet(self) -> None:
        for _ in range(self.callers):
            await self.arrived.acquire()


async def test_two_exporters_never_register_a_cell_twice(
    bench: StoreBench, db: Database, objects: ObjectStore
) -> None:
    batch_id = await started(bench)
    await end(bench, 3)
    held = Meeting(objects.url, 2)
    first = asyncio.create_task(results.export(db, held, batch_id))
    await held.arrived.acquire()
    held.arrived.release()
    await end(bench, 2)
    second = asyncio.create_task(results.export(db, held, batch_id))
    await held.meet()
    held.go.set()
    made = [part for found in await asyncio.gather(first, second) for part in found]
    assert sorted(part.rows for part in made) in ([2, 3], [5])
    cells = (await results.frame(db, objects, batch_id)).cells
    assert cells["cell"].is_unique().all()
    assert cells.height == 6
    assert sum(part["rows"] for part in await parts(db, batch_id)) == 5


async def test_a_cell_that_changes_while_its_part_is_written_is_not_registered(
    bench: StoreBench, db: Database, objects: ObjectStore
) -> None:
    batch_id = await started(bench)
    await end(bench, 2)
    cell = (await results.frame(db, objects, batch_id)).scores["cell"][0]
    held = Meeting(objects.url, 1)
    export = asyncio.create_task(results.export(db, held, batch_id))
    await held.meet()
    await rescore(db, batch_id, cell, 0.25)
    held.go.set()
    assert [part.rows for part in await export] == [1, 1]
    scores = (await results.frame(db, objects, batch_id)).scores
    assert dict(zip(scores["cell"], scores["value"], strict=True))[cell] == 0.25
    assert scores.height == 2


async def test_a_cell_that_is_taken_back_leaves_its_part(
    bench: StoreBench, db: Database, objects: ObjectStore
) -> None:
    batch_id = await started(bench)
    await end(bench)
    await results.export(db, objects, batch_id)
    before = await results.frame(db, objects, batch_id)
    cell = before.scores["cell"][1]
    await rescore(db, batch_id, cell, 0.5)
    after = await results.frame(db, objects, batch_id)
    assert after.digest != before.digest
    assert after.cells.height == 6
    assert after.scores.filter(pl.col("cell") == cell)["value"].to_list() == [0.5]
    assert after.scores.height == before.scores.height
    assert [part["rows"] for part in await parts(db, batch_id)] == [5]
    assert [part.rows for part in await results.export(db, objects, batch_id)] == [1]
    assert same(await results.frame(db, objects, batch_id), after)


@pytest.mark.parametrize("damage", ["lost", "corrupt"])
async def test_a_part_whose_object_is_gone_is_read_from_the_rows(
    bench: StoreBench, db: Database, objects: ObjectStore, damage: str
) -> None:
    batch_id = await started(bench)
    await end(bench, 3)
    (first,) = await results.export(db, objects, batch_id)
    await end(bench)
    (second,) = await results.export(db, objects, batch_id)
    before = await results.frame(db, objects, batch_id)
    path = Path(objects.url.removeprefix("file://")) / key_of(first.digest)
    if damage == "lost":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    assert same(await results.frame(db, objects, batch_id), before)
    assert [part["digest"] for part in await parts(db, batch_id)] == [second.digest]
    assert [part.rows for part in await results.export(db, objects, batch_id)] == [3]
    assert same(await results.frame(db, objects, batch_id), before)


async def test_frames_are_whole_while_cells_end_and_are_sealed(
    bench: StoreBench, db: Database, objects: ObjectStore
) -> None:
    batch_id = await started(bench, cases=10)
    ended = asyncio.Event()

    async def writing() -> None:
        for _ in range(10):
            await end(bench, 2)
        ended.set()

    async def sealing() -> None:
        while not ended.is_set():
            await results.export(db, objects, batch_id)

    async def reading() -> None:
        while not ended.is_set():
            cells, scores, _, _ = await results.frame(db, objects, batch_id)
            assert cells["ordinal"].sort().to_list() == list(range(20))
            done = cells.filter(pl.col("status") == "DONE")["cell"]
            assert sorted(scores["cell"]) == sorted(done)

    await asyncio.gather(writing(), sealing(), sealing(), reading())
    await results.export(db, objects, batch_id)
    assert sum(part["rows"] for part in await parts(db, batch_id)) == 20


async def test_a_part_of_before_a_column_was_there_is_read(
    bench: StoreBench, db: Database, objects: ObjectStore
) -> None:
    batch_id = await started(bench)
    await end(bench)
    [part] = await results.export(db, objects, batch_id)
    whole = await results.frame(db, objects, batch_id)
    assert whole.cells["usage"].to_list() == ["{}"] * 6
    assert whole.cells["shared_failure"].to_list() == [False] * 6
    old = pl.read_parquet(io.BytesIO(await objects.get(part.digest)))
    buffer = io.BytesIO()
    new = ["node_runs", "usage", "shared_failure"]
    old.drop(new).write_parquet(buffer)
    older = await objects.put(buffer.getvalue())
    async with db.connection() as conn:
        await conn.execute("UPDATE result_parts SET digest = %s", (older,))
    found = await results.frame(db, objects, batch_id)
    assert found.cells.drop(new).equals(whole.cells.drop(new))
    assert found.cells.select(new).null_count().row(0) == (6, 6, 6)


async def test_the_digest_changes_with_results_only(
    bench: StoreBench, db: Database, objects: ObjectStore
) -> None:
    await bench.runner()
    batch = await bench.batch()
    seen = [await results.digest_of(db, batch.id)]
    await bench.store.executions.admit(batch.id, 6, actor="scheduler")
    assert await results.digest_of(db, batch.id) == seen[0]
    for _ in range(6):
        await end(bench, 1)
        seen.append(await results.digest_of(db, batch.id))
    await bench.store.batches.close(actor="scheduler")
    seen.append(await results.digest_of(db, batch.id))
    assert len(set(seen)) == 8
    other = await bench.batch()
    assert await results.digest_of(db, other.id) not in seen


async def test_unknown_batches_are_told(db: Database, objects: ObjectStore) -> None:
    for asked in (
        results.export(db, objects, "b0"),
        results.frame(db, objects, "b0"),
        results.digest_of(db, "b0"),
        results.compute_leaderboard(db, objects, "b0"),
    ):
        with pytest.raises(errors.UnknownBatch, match="there is no batch b0"):
            await asked


async def test_a_leaderboard_is_stored_under_the_digest_of_its_results(
    bench: StoreBench, db: Database, objects: ObjectStore
) -> None:
    batch_id = await started(bench)
    held = await bench.claim()
    for item in held:
        value = float(item.binding["node"] == "v1")
        scores = [(EXACT, Score(metric="exact", value=value))]
        assert await bench.settle(item, "complete", scores=scores) is None
    running = await results.compute_leaderboard(db, objects, batch_id)
    assert not running.complete
    await bench.store.batches.close(actor="scheduler")
    digest = await results.digest_of(db, batch_id)
    assert await results.stored(db, batch_id, digest) is None
    made = await results.compute_leaderboard(db, objects, batch_id)
    assert made == await results.compute_leaderboard(db, objects, batch_id)
    assert made == await results.stored(db, batch_id, digest)
    assert await results.stored(db, batch_id, running.digest) is None
    assert made.complete
    assert [(row.rank, row.variant) for row in made.rows] == [(1, "v1"), (2, "v0")]
    assert made.rows[0].metrics[0].mean == 1
    told = await bench.events(types=["leaderboard.computed"])
    assert [event.payload["digest"] for event in told] == [running.digest, digest]
    assert {event.batch_id for event in told} == {batch_id}


async def test_a_batch_in_which_everything_failed_has_its_metrics(
    bench: StoreBench, db: Database, objects: ObjectStore
) -> None:
    batch_id = await started(bench)
    for item in await bench.claim():
        assert await bench.settle(item, "fail", fault=FAULT) is None
    made = await results.compute_leaderboard(db, objects, batch_id)
    assert made.primary == "exact"
    assert [row.metrics[0].mean for row in made.rows] == [0, 0]
    assert [row.errors for row in made.rows] == [3, 3]
