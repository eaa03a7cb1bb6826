"""The SDK against the real HTTP service and database, over a socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio
import uvicorn

from tests.integration.http_bench import HttpBench, serving
from wtb_ray import errors
from wtb_ray.api import Leaderboard
from wtb_ray.model import Budget, Cost
from wtb_ray.sdk import AsyncTestBench, WorkflowProject, WTBTestBench

Result = TypeVar("Result")

CASES: list[dict[str, Any]] = [{"id": f"c{i}", "input": {"x": i}} for i in range(150)]
MATRIX: list[dict[str, str]] = [{}, {"b": "fast"}]


@pytest_asyncio.fixture
async def http(url: str, tmp_path: Path) -> AsyncIterator[HttpBench]:
    async with serving(url, tmp_path / "data") as bench:
        yield bench


@pytest_asyncio.fixture
async def address(http: HttpBench) -> AsyncIterator[str]:
    """Where the service listens."""
    server = uvicorn.Server(uvicorn.Config(http.app, port=0, log_level="error", lifespan="off"))
    serving_on = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await serving_on


@pytest.fixture
def project(tmp_path: Path) -> WorkflowProject:
    (tmp_path / "code/app").mkdir(parents=True)
    (tmp_path / "code/app/graph.py").write_text("def build(): ...")
    project = WorkflowProject("p", "app.graph:build", root=tmp_path / "code")
    project.register_variant("b", "fast", params={"model": "small"})
    return project


async def test_a_project_is_uploaded_registered_and_found(
    address: str, http: HttpBench, project: WorkflowProject
) -> None:
    async with AsyncTestBench(address, actor="ann") as bench:
        version = await bench.register_project(project)
        assert (await bench.register_project(project)).version == version.version
        assert [v.version for v in await bench.list_projects()] == [version.version]
        events = [e async for e in bench.events(follow=False)]
    assert version.spec.bundle is not None
    assert await http.context.objects.exists(version.spec.bundle)
    assert [(e.type, e.actor) for e in events] == [("project.registered", "http:ann")]


async def test_an_execution_is_started_read_and_stopped(
    address: str, project: WorkflowProject
) -> None:
    async with AsyncTestBench(address) as bench:
        await bench.register_project(project)
        execution = await bench.run(project, {"x": 1}, {"b": "fast"}, wait=False)
        assert (execution.status, execution.state) == ("PENDING", {})
        assert execution.info.binding == {"b": "fast"}
        with pytest.raises(TimeoutError, match=execution.id):
            await bench.wait(execution, timeout=0.1)
        assert await bench.get_checkpoints(execution.id) == []
        assert (await bench.stop(execution.id, "enough")).status == "CANCELLED"
        assert (await bench.wait(execution.id)).status == "CANCELLED"
        assert [e.id for e in await bench.get_execution_history("p")] == [execution.id]
        types = [e.type async for e in bench.events(execution=execution.id, follow=False)]
    assert types == ["execution.created", "execution.cancelled"]


async def test_a_batch_is_made_read_and_stopped(
    address: str, http: HttpBench, project: WorkflowProject
) -> None:
    async with AsyncTestBench(address) as bench:
        await bench.register_project(project)
        batch = await bench.run_batch_test("p", MATRIX, CASES, ["exact"], wait=False)
        assert (batch.info.cells, (await batch.progress()).finished) == (300, 0)
        assert len(await batch.results()) == 300  # more than a page
        assert (await batch.stop("enough")).status == "CANCELLED"
        seen: list[int] = []
        await batch.wait(progress=lambda p: seen.append(p.finished))
        assert seen == [300]
        assert (await bench.get_batch(batch.id)).status == "CANCELLED"
        http.controller.board = Leaderboard(
            batch_id=batch.id, digest="d", primary=None, node_errors="zero", rows=[], complete=True
        )
        assert (await bench.leaderboard(batch)).digest == "d"


async def test_a_batch_has_a_budget_grows_and_runs_again(
    address: str, project: WorkflowProject
) -> None:
    async with AsyncTestBench(address) as bench:
        await bench.register_project(project)
        batch = await bench.run_batch_test(
            "p", MATRIX[:1], CASES[:2], wait=False, budget=Budget(cells=100)
        )
        assert batch.info.budget == Budget(cells=100)
        assert (batch.cost, batch.cost_incurred) == (Cost(), Cost())
        await batch.stop()
        await batch.extend(CASES[1:3], MATRIX, repetitions=2)
        assert (batch.status, batch.info.cells) == ("RUNNING", 12)
        assert batch.info.counts == {"CANCELLED": 2, "PENDING": 10}
        await batch.rerun(case="c0")
        assert batch.info.counts == {"CANCELLED": 1, "PENDING": 11}
        await batch.set_budget(cells=None, cost=2.5)
        assert batch.info.budget == Budget(cost=2.5)
        with pytest.raises(errors.InvalidRequest, match="budget"):
            await batch.set_budget()
        with pytest.raises(errors.Conflict) as refused:
            await batch.extend([{"id": "c1", "input": {"x": 9}}])
        assert refused.value.details["field"] == "cases.0"

    def work() -> None:
        with WTBTestBench(address) as sync:
            found = sync.get_batch(batch.id).rerun(["CANCELLED"], variant="default")
            assert found.info.counts == {"PENDING": 12}
            assert found.set_budget(cells=200).info.budget == Budget(cells=200, cost=2.5)
            assert found.extend(repetitions=3).info.cells == 18
            with pytest.raises(errors.InvalidRequest, match=r"budget\.tokens"):
                sync.run_batch_test("p", MATRIX, CASES[:1], budget={"tokens": 0})

    await asyncio.to_thread(work)


async def test_events_are_followed_while_they_happen(
    address: str, project: WorkflowProject
) -> None:
    async with AsyncTestBench(address) as bench:
        await bench.register_project(project)
        async with contextlib.aclosing(bench.events(types=["execution.created"])) as events:
            execution = await bench.run("p", {"x": 1}, wait=False)
            first = await anext(events)
            assert first.execution_id == execution.id
            other = await bench.run("p", {"x": 2}, wait=False)
            assert (await anext(events)).execution_id == other.id
        again = [e async for e in bench.events(first.cursor, follow=False)]
    assert [e.execution_id for e in again] == [other.id]


async def test_the_sync_bench_does_the_same(address: str, project: WorkflowProject) -> None:
    def work() -> None:
        with WTBTestBench(address) as bench:
            bench.register_project(project)
            execution = bench.run("p", {"x": 1}, wait=False)
            assert bench.stop(execution.id).status == "CANCELLED"
            batch = bench.run_batch_test("p", MATRIX, CASES[:2], wait=False)
            assert batch.stop().wait().status == "CANCELLED"
            assert [r.status for r in batch.results] == ["CANCELLED"] * 4
            types = [e.type for e in bench.events(batch=batch.id, follow=False)]
            assert types == ["batch.created", "batch.cancelled"]

    await asyncio.to_thread(work)


async def test_the_sync_bench_runs_batches_in_async_programs(
    address: str, project: WorkflowProject
) -> None:
    bench = await asyncio.to_thread(WTBTestBench, address)
    await asyncio.to_thread(bench.register_project, project)
    batch = await bench.run_batch_test_async(
        project="p", variant_matrix=MATRIX, test_cases=CASES[:1], wait=False
    )
    assert len(await asyncio.to_thread(lambda: batch.results)) == 2
    bench.close()


@pytest.mark.parametrize(
    ("act", "kind", "field"),
    [
        (lambda b: b.get_execution("e0"), errors.UnknownExecution, None),
        (lambda b: b.run("nobody", {}), errors.UnknownProject, None),
        (lambda b: b.run("p", {}, {"b": "slow"}), errors.UnknownVariant, "variant_config.b"),
        (lambda b: b.run("p", {}, priority=1000), errors.InvalidRequest, "priority"),
        (lambda b: b.run_batch_test("p", [], CASES), errors.EmptyMatrix, None),
    ],
)
async def test_refusals_are_typed(
    address: str,
    project: WorkflowProject,
    act: Callable[[AsyncTestBench], Any],
    kind: type[errors.WTBError],
    field: str | None,
) -> None:
    async with AsyncTestBench(address) as bench:
        await bench.register_project(project)
        with pytest.raises(kind) as e:
            await act(bench)
    assert type(e.value) is kind
    if field is not None:
        assert e.value.details["field"] == field


async def test_a_bundle_that_the_service_refuses_is_named(address: str, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/ray.py").write_text("")
    project = WorkflowProject("p", "graph:build", root=tmp_path / "code")
    async with AsyncTestBench(address) as bench:
        with pytest.raises(errors.BundleRejected, match=r"'ray\.py'"):
            await bench.register_project(project)
