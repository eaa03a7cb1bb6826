"""Takeovers and drains: within subgraphs, beside zombies and abandoned nodes, with a clock that is behind."""

import asyncio
from typing import Any

import pytest

from tests.integration.test_saver_runs import another_host
from tests.integration.travel_bench import TravelBench, back, eventually, fork, travel
from tests.travels import HELD, RAN
from wtb_ray.model import FileTrackingConfig
from wtb_ray.states import ExecutionStatus as E

__all__ = ["travel"]

TRACKED = {"file_tracking": FileTrackingConfig()}
BOTH = pytest.mark.parametrize("spec", [TRACKED, {}], ids=["tracked", "untracked"])
K: dict[str, Any] = {"key": "k", "trail": [], "count": 0}


@BOTH
@pytest.mark.parametrize("how", ["pause", "drain"])
async def test_a_drain_inside_a_subgraph_beside_a_finished_sibling(
    travel: TravelBench, how: str, spec: dict[str, Any]
) -> None:
    """It is a restore point: neither the sibling nor the first part of the subgraph runs again."""
    version = await travel.register("tests.travels:nested", **spec)
    id = await travel.create(version, K)
    HELD.add(("k", "x"))
    runner = await travel.begin(id)
    await eventually(lambda: {"quick", "x"} <= set(RAN["k"]))
    await kept(travel, id)
    draining = None
    if how == "pause":
        await travel.control.pause(id, actor="me")
        await travel.heard(id, "pause")
    else:
        draining = asyncio.create_task(runner.drain())
        await travel.heard(id, "drained")
    HELD.clear()
    found = await travel.rest(id)
    assert found.status == (E.PAUSED if how == "pause" else E.PENDING)
    assert RAN["k"].count("y") == 0
    points = await travel.told(id, "restore_point.created")
    assert len(points) == 1
    if spec:
        assert set(await travel.files(id)) == {"all.txt", "quick.txt", "x.txt"}
    if draining is not None:
        await draining
        await travel.presume_dead(version.version)
        done = await travel.go(id)
    else:
        done = await travel.resume(id)
    assert done.status == E.COMPLETED
    assert sorted(RAN["k"]) == ["a", "quick", "w", "x", "y", "z"]
    if spec:
        assert set(await travel.files(id)) == {"all.txt", *(f"{n}.txt" for n in "xyw"), "quick.txt"}
        assert sorted((await travel.files(id))["all.txt"]) == sorted("quickxyw")


async def kept(travel: TravelBench, id: str) -> None:
    """Until what `quick` wrote is stored."""
    found = await travel.get(id)
    async with asyncio.timeout(60):
        while not await travel.db.rows(
            "SELECT 1 FROM checkpoint_writes WHERE thread_id = %s AND checkpoint_id = %s"
            " AND checkpoint_ns = '' AND idx >= 0",
            (found.thread_id, found.head),
        ):
            await asyncio.sleep(0.005)


@BOTH
async def test_a_takeover_inside_a_subgraph_by_a_host_whose_clock_is_behind(
    travel: TravelBench, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await travel.register("tests.travels:nested", **spec)
    id = await travel.create(version, K)
    HELD.add(("k", "y"))
    await travel.begin(id)
    await eventually(lambda: {"quick", "y"} <= set(RAN["k"]))
    await kept(travel, id)
    await travel.crash(version.version)
    another_host(monkeypatch)
    HELD.clear()
    done = await travel.go(id)
    assert done.status == E.COMPLETED
    counts = {name: RAN["k"].count(name) for name in ("a", "quick", "x", "y", "w", "z")}
    again = 2 if spec else 1
    assert counts == {"a": 1, "quick": again, "x": again, "y": 2, "w": 1, "z": 1}
    assert [s.step for s in await travel.steps(id)] == [-1, 0, 1, 2, 3]
    if spec:
        assert sorted((await travel.files(id))["all.txt"]) == sorted("quickxyw")


async def test_going_back_with_a_clock_that_is_behind(
    travel: TravelBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await travel.register("tests.travels:line")
    done = await travel.run(version, K)
    another_host(monkeypatch)
    await back(travel, done.id, 1)
    await travel.step(done.id)
    child = await fork(travel, done.id, await travel.at(done.id, 2))
    for id in (done.id, child.id):
        assert (await travel.resume(id)).status == E.COMPLETED
        assert (await travel.state(id))["trail"] == [*"abc"]
    assert RAN["k"] == [*"abcbcc"]


async def test_a_zombie_that_writes_files_after_the_takeover(travel: TravelBench) -> None:
    version = await travel.register("tests.travels:stuck", **TRACKED)
    id = await travel.create(version, K)
    HELD.add(("k", "stuck"))
    await travel.begin(id)
    await eventually(lambda: "stuck" in RAN["k"])
    old = await travel.get(id)
    zombie = await travel.presume_dead(version.version)
    await travel.begin(id)
    await eventually(lambda: RAN["k"].count("stuck") == 2)
    HELD.clear()
    done = await travel.rest(id)
    assert (done.status, done.epoch > old.epoch) == (E.COMPLETED, True)
    await asyncio.gather(*zombie._tasks)
    wrote = {line for line in RAN["k"] if "wrote" in line}
    assert len(wrote) == 2, "each in a directory of its own"
    assert RAN["k"].count("c") == 1, "the zombie got no further"
    assert [s.step for s in await travel.steps(id)] == [-1, 0, 1, 2, 3]
    assert await travel.files(id) == {
        "all.txt": "ac",
        "a.txt": "a",
        "c.txt": "c",
        "stuck.txt": "whole",
    }


@pytest.mark.parametrize("how", ["retry", "rollback"])
async def test_an_abandoned_node_goes_on_while_its_execution_does(
    travel: TravelBench, how: str
) -> None:
    """A thread that nothing can end: it failed beside it, or was stopped and did not end in time."""
    version = await travel.register(
        f"tests.travels:{'leaving' if how == 'retry' else 'stuck'}", **TRACKED
    )
    id = await travel.create(version, K)
    HELD.add(("k", "stuck"))
    await travel.begin(id)
    await eventually(lambda: "stuck" in RAN["k"])
    if how == "retry":
        assert (await travel.rest(id)).status == E.FAILED
        await travel.control.retry(id, actor="me")
    else:
        await travel.store.executions.request_stop(id, actor="me")
        assert (await travel.rest(id)).status == E.CANCELLED
        await back(travel, id, 1)
        await travel.control.resume(id, actor="me")
    await travel.begin(id)
    await eventually(lambda: RAN["k"].count("stuck") == 2)
    HELD.clear()
    assert (await travel.rest(id)).status == E.COMPLETED
    await eventually(lambda: sum("wrote" in line for line in RAN["k"]) == 2)
    places = {line.split()[-1] for line in RAN["k"] if "wrote" in line}
    assert len(places) == 2
    assert (await travel.files(id))["stuck.txt"] == "whole"
    assert [s.step for s in await travel.steps(id)] == [*range(-1, len(await travel.steps(id)) - 1)]
