"""What is read back: versions, pages, results, singletons, stored answers."""

import asyncio

import pytest

from tests.integration.store_bench import GRAPH, RIGHT, StoreBench
from wtb_ray import errors
from wtb_ray.model import BatchSpec, Case, ProjectSpec
from wtb_ray.states import CellStatus, ExecutionStatus

KEY = "k"


async def test_registering_again_changes_nothing_but_the_newest(bench: StoreBench) -> None:
    projects, first = bench.store.projects, bench.version
    changed = ProjectSpec(name="p", entry="app.graph:build", description="other")
    with pytest.raises(errors.UnknownVersion):
        await projects.register_known(changed, actor="me")
    second = await projects.register(changed, GRAPH, {"other": GRAPH}, actor="me")
    assert await projects.get("p") == second
    assert await projects.get("p", first.version) == first
    assert await projects.versions("p") == [second, first]
    assert await projects.register_known(first.spec, actor="me") == first
    assert await projects.get("p") == first
    registered = await bench.events(types=["project.registered"])
    assert [e.payload["version"] for e in registered] == [first.version, second.version]
    other = await StoreBench.make(bench.db, "other")
    with pytest.raises(errors.UnknownVersion):
        await projects.get("other", first.version)
    page = await projects.list(limit=1)
    assert page.items == [other.version]
    assert (await projects.list(limit=1, after=page.next)).items == [first]


async def test_one_version_registered_by_many_at_once_is_one(bench: StoreBench) -> None:
    spec = ProjectSpec(name="q", entry="app.graph:build")
    register = bench.store.projects.register
    made = await asyncio.gather(*(register(spec, GRAPH, {}, actor=str(i)) for i in range(4)))
    assert len({version.created_at for version in made}) == 1
    assert len(await bench.events(types=["project.registered"])) == 2


async def test_lists_are_paged_newest_first_without_gaps(bench: StoreBench) -> None:
    executions = bench.store.executions
    made = [(await bench.execution(breakpoints=("before:a",))).id for _ in range(5)]
    batch = await bench.batch(cases=4, variants=1)
    await executions.admit(batch.id, 4, actor="s")
    seen: list[str] = []
    after = None
    while True:
        page = await executions.list(limit=2, after=after)
        seen += [e.id for e in page.items]
        after = page.next
        if after is None:
            break
    admitted = [e.id for e in (await executions.list(batch_id=batch.id)).items]
    assert seen == admitted + made[::-1]
    assert len(admitted) == 4
    assert (await executions.get(made[0])).breakpoints == ("before:a",)
    assert (await executions.list(project="other")).items == []
    assert (await executions.list(status=ExecutionStatus.RUNNING)).items == []
    assert len((await executions.list(project="p", status=ExecutionStatus.PENDING)).items) == 9
    for wrong in ("x", "1", ".", "9" * 30 + ".e"):
        with pytest.raises(errors.InvalidRequest) as refused:
            await executions.list(after=wrong)
        assert refused.value.details["field"] == "after"


async def test_unstarted_batches_come_by_priority_and_age(bench: StoreBench) -> None:
    await bench.batch(cases=1)
    low = [(await bench.batch(cases=1, started=False)).id for _ in range(2)]
    high = (await bench.batch(cases=1, started=False, priority=3)).id
    assert await bench.store.batches.unstarted() == [high, *low]


async def test_results_of_a_batch(bench: StoreBench) -> None:
    batch = await bench.batch(cases=2)
    await bench.runner()
    demand = await bench.store.executions.demand(100)
    assert [(d.version, d.pending, d.cells) for d in demand] == [(bench.version.version, 0, 4)]
    await bench.store.executions.admit(batch.id, 3, actor="s")
    [runner] = await bench.store.leases.runners(bench.version.version)
    assert (runner.in_flight, runner.expired) == (0, False)
    first, second = await bench.claim(limit=2)
    assert await bench.settle(first, "complete", scores=RIGHT, latency_ms=5) is None
    [runner] = await bench.store.leases.runners()
    assert runner.in_flight == 1
    assert await bench.store.leases.runners("other") == []

    page = await bench.store.cells.list(batch.id, limit=3)
    assert [(c.variant, c.binding, c.case_id, c.status) for c in page.items] == [
        ("v0", {"node": "v0"}, "c0", CellStatus.DONE),
        ("v1", {"node": "v1"}, "c0", CellStatus.RUNNING),
        ("v0", {"node": "v0"}, "c1", CellStatus.RUNNING),
    ]
    assert (page.items[0].scores, page.items[0].latency_ms) == ({"exact": 1.0}, 5.0)
    assert page.items[1].execution_id == second.execution_id
    rest = await bench.store.cells.list(batch.id, after=page.next)
    assert [c.status for c in rest.items] == [CellStatus.PENDING]
    assert rest.next is None
    done = await bench.store.cells.list(batch.id, status=CellStatus.DONE)
    assert [c.id for c in done.items] == [page.items[0].id]
    with pytest.raises(errors.InvalidRequest):
        await bench.store.cells.list(batch.id, after="-1")

    rows = [row async for row in bench.store.cells.frame_rows(batch.id)]
    assert [row["status"] for row in rows] == ["DONE", "RUNNING", "RUNNING", "PENDING"]
    [score] = rows[0]["scores"]
    assert (score["scorer"], score["metric"], score["value"]) == ("exact", "exact", 1.0)

    progress = await bench.store.batches.progress(batch.id)
    assert (progress.total, progress.finished, progress.percent) == (4, 1, 25.0)
    assert progress.counts == {"DONE": 1, "RUNNING": 2, "PENDING": 1}
    assert (progress.rate, progress.remaining_s) == (None, None), "one cell says nothing"
    waiting = await bench.batch(started=False)
    assert (await bench.store.batches.progress(waiting.id)).rate is None
    listed = await bench.store.batches.list(limit=1)
    assert [b.id for b in listed.items] == [waiting.id]
    assert (await bench.store.batches.list(after=listed.next)).items == [
        (await bench.store.batches.get(batch.id)).model_copy(
            update={"cost": None, "cost_incurred": None}  # for one batch alone
        )
    ]


async def test_a_batch_is_made_whole_or_not_at_all(bench: StoreBench) -> None:
    for ids in (["a", "a"], ["a", "b\x00"]):
        cases = tuple(Case(id=id, input={}) for id in ids)
        spec = BatchSpec(project="p", variants=({},), cases=cases)
        with pytest.raises(errors.InvalidCases) as refused:
            await bench.store.batches.create(
                spec, bench.version, ["v"], [(0, 0, 0, 0)], recursion_limit=5, actor="me"
            )
        assert refused.value.details["field"] == "cases"
    assert (await bench.store.batches.list()).items == []
    assert await bench.types() == ["project.registered"]
    with pytest.raises(errors.InvalidState):
        await bench.store.executions.create(
            bench.version, {}, {"x": "\ud800"}, recursion_limit=5, actor="me"
        )


async def test_a_singleton_has_one_holder(bench: StoreBench) -> None:
    leases = bench.store.leases
    first = await leases.acquire("scheduler", "a", 60.0)
    assert first is not None
    assert await leases.acquire("scheduler", "a", 60.0) == first
    assert await leases.acquire("scheduler", "b", 60.0) is None
    assert await leases.hold("scheduler", "a", first, -1.0), "and lets it run out"
    taken = await leases.acquire("scheduler", "b", 60.0)
    assert taken is not None
    assert taken > first
    assert not await leases.hold("scheduler", "a", first, 60.0)
    await leases.release("scheduler", "a")
    assert await leases.hold("scheduler", "b", taken, 60.0)
    await leases.release("scheduler", "b")
    again = await leases.acquire("scheduler", "a", 60.0)
    assert again is not None
    assert again > taken
    with pytest.raises(errors.AlreadyExists):
        await bench.runner("scheduler")


async def test_a_lease_that_is_renewed_holds(bench: StoreBench) -> None:
    epoch = await bench.runner(ttl_s=-5.0)
    [runner] = await bench.store.leases.runners()
    assert runner.expired
    assert runner.overdue_s >= 5.0
    assert await bench.store.leases.renew("r1", epoch, 60.0)
    [runner] = await bench.store.leases.runners()
    assert (runner.expired, runner.overdue_s) == (False, 0.0)
    assert not await bench.store.leases.renew("r1", epoch + 1, 60.0)


async def test_a_request_is_done_once_by_its_key(bench: StoreBench) -> None:
    keys = bench.store.idempotency
    begun = await asyncio.gather(
        *(keys.begin(KEY, "digest") for _ in range(3)), return_exceptions=True
    )
    assert [b for b in begun if b is None] == [None]
    assert {type(b) for b in begun if b is not None} == {errors.Conflict}
    with pytest.raises(errors.IdempotencyConflict):
        await keys.begin(KEY, "other digest")
    await keys.finish(KEY, 201, {"id": "e1"})
    assert await keys.begin(KEY, "digest") == (201, {"id": "e1"})
    await keys.forget(KEY)
    assert await keys.begin(KEY, "other digest") is None
    async with bench.db.connection() as conn:
        await conn.execute("UPDATE idempotency SET created_at = now() - interval '1 hour'")
    assert await keys.begin(KEY, "other digest") is None, "its first process is long gone"
