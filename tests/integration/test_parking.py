"""Pause strategies: one suite over all of them, for what goes on equal and what is really given back."""

import asyncio
import gc
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests import ballast
from tests.filework import names, places
from tests.integration.test_scheduling import Bench, LocalRunners
from tests.integration.test_tracking import bench_start, eventually, owner, start, tree, until
from wtb_ray import views
from wtb_ray.actors.lifecycle import ActorLifecycle
from wtb_ray.actors.scheduler import BatchScheduler
from wtb_ray.db import Database
from wtb_ray.model import (
    Execution,
    FileTrackingConfig,
    Parking,
    ProjectSpec,
    WorkspaceIsolationConfig,
)
from wtb_ray.settings import Settings
from wtb_ray.states import ExecutionStatus as E
from wtb_ray.states import PauseStrategy as P
from wtb_ray.store import Store
from wtb_ray.store.parking import Due

TRACKED = FileTrackingConfig()
OWN_PROCESS = WorkspaceIsolationConfig(isolation="process")
FILES = {"half.txt": b"whole", "quick.txt": b"quick\n"}
DONE = ["gated", "half.txt", "quick", "quick.txt"]


class Parked(Bench):
    """A bench whose actors can be replaced by those of other settings."""

    actors: list[Any]

    def begin(self, **settings: Any) -> None:
        self.settings = self.settings.model_copy(update=settings)
        self.runners.settings = self.settings
        url = self.runners.url
        self.actors = [
            BatchScheduler(self.settings, url, self.runners),
            ActorLifecycle(self.settings, url, self.runners),
        ]

    async def end(self) -> None:
        for actor in self.actors:
            await actor.close()


@pytest_asyncio.fixture
async def bench(url: str, tmp_path: Path) -> AsyncIterator[Parked]:
    settings = Settings(data_dir=tmp_path, runner_slots=4, runners_per_pool=2, lease_ttl_s=1.0)
    runners = LocalRunners(settings, url)
    async with Database(url) as db:
        found = Parked(Store(db), settings, runners)
        found.begin()
        yield found
        await found.end()
        for runner_id in list(runners.runners):
            await runners.kill(runner_id)
            await runners.runners[runner_id].close()


class Pause:
    """An execution of `filework.parallel` that was paused while a node of it ran."""

    def __init__(self, bench: Parked, folder: Path, strategy: P, **spec: Any):
        self.bench, self.strategy, self.spec = bench, strategy, spec
        self.log, self.gate = folder / f"{strategy}.log", folder / f"{strategy}.gate"
        self.id = ""

    async def __call__(self, **how: Any) -> Parking:
        state = {"log": str(self.log), "gate": str(self.gate)}
        _, made = await start(self.bench, "parallel", state, **self.spec)
        self.id = made.id
        await eventually(lambda: set(names(self.log)) == {"quick", "gated"})
        await self.bench.store.control.pause(
            made.id, actor="test", strategy=None if how else self.strategy, **how
        )
        self.gate.touch()
        paused = await until(self.bench, made.id)
        assert paused.status == E.PAUSED, paused.error
        assert paused.parking is not None
        assert paused.parking.strategy is self.strategy
        return paused.parking

    @property
    def directory(self) -> Path:
        """Where all workspaces of the execution lie."""
        return self.bench.settings.workspaces() / self.id

    async def owners(self) -> list[str]:
        told = await self.bench.store.events.read(bench_start(), 1000, execution_id=self.id)
        return [e.payload["owner"] for e in told if e.type == "execution.started"]

    async def resume(self) -> Execution:
        await self.bench.store.control.resume(self.id, actor="test")
        return await until(self.bench, self.id, E.COMPLETED, E.FAILED)

    async def goes_on_equal(self, files: dict[str, bytes] | None = None) -> None:
        done = await self.resume()
        assert done.status == E.COMPLETED, done.error
        assert done.parking is None
        assert sorted(names(self.log)) == ["gated", "last", "quick"], "no node ran twice"
        row = await self.bench.store.db.row(
            "SELECT array_agg(name) AS names FROM (SELECT n.value ->> 'name' AS name"
            " FROM steps, json_array_elements(nodes::json) n WHERE thread_id = %s) x",
            (done.thread_id,),
        )
        assert row is not None
        assert sorted(row["names"]) == ["gated", "last", "quick"]
        if files is not None:
            assert (
                await tree(self.bench, await self.bench.store.files.manifest_at(self.id)) == files
            )
        assert await self.last() == DONE

    async def last(self) -> list[str]:
        """What the last node saw of state and files, sorted."""
        row = await self.bench.store.db.row(
            "SELECT b.type, b.blob FROM executions e JOIN checkpoints c ON c.thread_id = e.thread_id"
            " AND c.checkpoint_id = e.head AND c.checkpoint_ns = ''"
            " JOIN checkpoint_blobs b ON b.thread_id = e.thread_id AND b.channel = 'done'"
            " AND b.version = c.checkpoint -> 'channel_versions' ->> 'done' WHERE e.id = %s",
            (self.id,),
        )
        assert row is not None
        return sorted(views.view(row["type"], row["blob"]))


def workspaces(kind: str) -> dict[str, Any]:
    kinds: dict[str, dict[str, Any]] = {
        "tracked": {"file_tracking": TRACKED},
        "untracked": {},
        "tracked, own process": {"file_tracking": TRACKED, "workspace_isolation": OWN_PROCESS},
        "untracked, own process": {"workspace_isolation": OWN_PROCESS},
    }
    return kinds[kind]


@pytest.mark.parametrize(
    "kind", ["tracked", "untracked", "tracked, own process", "untracked, own process"]
)
async def test_state_and_files_are_equal_and_what_is_released_is_gone(
    bench: Parked, tmp_path: Path, kind: str
) -> None:
    spec, tracked, own = workspaces(kind), "untracked" not in kind, "own" in kind
    for strategy in P:
        pause = Pause(bench, tmp_path, strategy, **spec)
        parking = await pause()
        cold = strategy is P.COLD
        assert ("workspace" in parking.kept) == pause.directory.exists()
        assert pause.directory.exists() == (not cold or not tracked)
        assert ("not tracked" in parking.left_out.get("workspace", "")) == (cold and not tracked)
        assert ("graph" in parking.kept) == (strategy is P.HOT)
        assert ("graph" in parking.released) == (strategy is not P.HOT)
        assert ("process" in parking.kept) == (own and not cold)
        assert ("process" in parking.released) == (own and cold)
        assert ("process" in parking.left_out) == (not own)
        first = parking.runner or ""
        if own and cold:
            await eventually(lambda first=first: first in bench.runners.dead)  # type: ignore[misc]
        await pause.goes_on_equal(FILES if tracked else None)
        owners = await pause.owners()
        if own:
            assert (owners[0] == owners[-1]) == (not cold)
        told = await bench.store.events.read(bench_start(), 1000, execution_id=pause.id)
        [report] = [e.payload for e in told if e.type == "execution.parked"]
        assert report == parking.model_dump(mode="json")


async def test_a_crash_while_parked_loses_nothing_that_is_tracked(
    bench: Parked, tmp_path: Path
) -> None:
    """The runner is killed and the directory deleted by hand."""
    for strategy in P:
        pause = Pause(bench, tmp_path, strategy, **workspaces("tracked, own process"))
        parking = await pause()
        await bench.runners.kill(parking.runner or "")
        shutil.rmtree(pause.directory, ignore_errors=True)
        if strategy is P.HOT:
            async with asyncio.timeout(30):
                while "process" not in (await reported(bench, pause.id)).left_out:
                    await asyncio.sleep(0.02)
            assert "died" in (await reported(bench, pause.id)).left_out["process"]
        await pause.goes_on_equal(FILES)
        assert len(set(await pause.owners())) == 2


async def reported(bench: Bench, id: str) -> Parking:
    parking = (await bench.store.executions.get(id)).parking
    assert parking is not None
    return parking


async def test_a_reserved_process_gets_no_other_work_and_its_end_frees_the_execution(
    bench: Parked, tmp_path: Path
) -> None:
    hot = Pause(bench, tmp_path, P.HOT, **workspaces("untracked, own process"))
    first = (await hot()).runner or ""
    other = Pause(bench, tmp_path, P.WARM, **workspaces("untracked, own process"))
    assert (await other()).runner != first
    await bench.store.executions.request_stop(other.id, actor="test")
    await bench.store.leases.drain(first)
    await hot.goes_on_equal()
    assert (await hot.owners())[-1] != first, "another runner, with the same directory"
    async with asyncio.timeout(30):
        while any(r.reserved_for for r in await bench.store.leases.runners()):
            await asyncio.sleep(0.02)


async def test_no_more_processes_are_kept_than_may_be(bench: Parked, tmp_path: Path) -> None:
    await bench.end()
    bench.begin(reserved_runners=0)
    pause = Pause(bench, tmp_path, P.HOT, **workspaces("tracked, own process"))
    parking = await pause()
    assert "process" in parking.left_out
    assert "process" not in parking.kept
    await pause.goes_on_equal(FILES)


async def test_a_pause_that_lasts_is_parked_colder_by_itself(bench: Parked, tmp_path: Path) -> None:
    await bench.end()
    bench.begin(warm_after_s=0.2, cold_after_s=0.2)
    patient = Pause(bench, tmp_path, P.WARM, **workspaces("tracked"))
    await patient(expected_s=900)
    pause = Pause(bench, tmp_path, P.HOT, **workspaces("tracked, own process"))
    first = (await pause()).runner or ""
    (places(pause.log)[-1] / "quick.txt").write_text("changed by hand")
    async with asyncio.timeout(60):
        while (await reported(bench, pause.id)).strategy is not P.COLD:
            await asyncio.sleep(0.02)
    parking = await reported(bench, pause.id)
    assert set(parking.released) == {"workspace", "graph", "process"}
    assert not pause.directory.exists()
    await eventually(lambda: first in bench.runners.dead)
    told = await bench.store.events.read(bench_start(), 1000, execution_id=pause.id)
    parked = [e.payload["strategy"] for e in told if e.type == "execution.parked"]
    assert parked == ["hot", "warm", "cold"]
    await pause.goes_on_equal(FILES)
    restores = await bench.store.files.restores(pause.id)
    [displaced] = [r for r in restores if r.reason == "parked"]
    assert (await tree(bench, displaced.before))["quick.txt"] == b"changed by hand"
    assert (await reported(bench, patient.id)).strategy is P.WARM, "it is expected to last"


async def test_files_that_no_node_asked_to_keep_are_there_after_any_pause(
    bench: Parked, tmp_path: Path
) -> None:
    for strategy in P:
        manual = FileTrackingConfig(commit_on="manual")
        pause = Pause(bench, tmp_path, strategy, file_tracking=manual)
        await pause()
        assert pause.directory.exists() == (strategy is not P.COLD)
        await pause.goes_on_equal()


async def test_a_warm_pause_frees_what_the_graph_held(bench: Parked) -> None:
    version = await bench.register(ProjectSpec(name="ballast", entry="tests.ballast:line"))
    made = await bench.store.executions.create(
        version, {}, {}, recursion_limit=9, breakpoints=("before:after",), actor="test"
    )
    paused = await until(bench, made.id)
    assert paused.status == E.PAUSED, paused.error
    assert (await reported(bench, made.id)).strategy is P.HOT, "nobody said how long"
    gc.collect()
    assert [ref for ref in ballast.HELD if ref() is not None], "kept, to go on at once"
    [runner] = bench.runners.runners
    due = Due(made.id, paused.epoch, version.version, {}, P.WARM, runner, True, None)
    assert await bench.runners.ask(runner, "park", due)
    assert set((await reported(bench, made.id)).released) == {"graph"}
    await eventually(lambda: not [ref for ref in ballast.HELD if ref() is not None])
    await bench.store.control.resume(made.id, actor="test")
    assert (await until(bench, made.id, E.COMPLETED, E.FAILED)).status == E.COMPLETED


async def test_what_waits_is_parked_as_asked_once_it_is_paused(
    bench: Parked, tmp_path: Path
) -> None:
    """A pause that finds no owner: its report comes from the lifecycle."""
    hot = Pause(bench, tmp_path, P.HOT, **workspaces("tracked"))
    runner = (await hot()).runner or ""
    await bench.end()
    await bench.store.control.resume(hot.id, actor="test")
    paused = await bench.store.control.pause(hot.id, actor="test", strategy="cold")
    assert (paused.status, paused.parking) == (E.PAUSED, None)
    assert hot.directory.exists()
    bench.begin()
    async with asyncio.timeout(30):
        while (await bench.store.executions.get(hot.id)).parking is None:
            await asyncio.sleep(0.02)
    parking = await reported(bench, hot.id)
    assert (parking.strategy, parking.runner) == (P.COLD, runner)
    assert not hot.directory.exists()
    await hot.goes_on_equal(FILES)


async def test_a_kill_does_not_wait_for_anybody(bench: Parked, tmp_path: Path) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    spec = workspaces("untracked, own process")
    state = {"log": str(log), "gate": str(gate)}
    _, made = await start(bench, "parallel", state, **spec)
    await eventually(lambda: set(names(log)) == {"quick", "gated"})
    first = await owner(bench, made.id)
    killed = await bench.store.control.kill(made.id, actor="test")
    assert (killed.status, killed.reason, killed.owner) == (E.CANCELLED, "killed", None)
    await eventually(lambda: first in bench.runners.dead)  # a node of it would not end
    gate.touch()
    assert (await bench.store.executions.get(made.id)).status == E.CANCELLED


@pytest.mark.parametrize("kind", ["tracked", "untracked"])
async def test_a_reset_goes_on_from_the_input_in_a_clean_workspace(
    bench: Parked, tmp_path: Path, kind: str
) -> None:
    log = tmp_path / "log"
    spec = {**workspaces(kind), "workspace_isolation": WorkspaceIsolationConfig()}
    _, made = await start(bench, "line", {"log": str(log), "how": "fail"}, **spec)
    assert (await until(bench, made.id)).status == E.FAILED
    reset = await bench.store.branches.reset(made.id, actor="test")
    assert (reset.status, reset.reason, reset.head_step) == (E.PAUSED, "reset", 0)
    left = places(log)[-1]
    assert (left / "notes" / "b.txt").exists()
    await bench.store.control.resume(made.id, actor="test")
    assert (await until(bench, made.id, E.FAILED)).status == E.FAILED
    assert names(log) == ["first", "second"] * 2
    text = (places(log)[-1] / "notes" / "a.txt").read_text()
    assert text == "first\nsecond\n", "nothing of the first time is there"


async def test_other_settings_drain_runners_and_what_runs_goes_on_in_new_ones(
    bench: Parked, tmp_path: Path
) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    state = {"log": str(log), "gate": str(gate)}
    _, made = await start(bench, "parallel", state, file_tracking=TRACKED)
    await eventually(lambda: set(names(log)) == {"quick", "gated"})
    first = await owner(bench, made.id)
    await bench.end()
    bench.begin(chunk_size=7, drain_grace_s=0.2)
    await eventually(lambda: first in bench.runners.dead)
    await eventually(lambda: names(log).count("gated") == 2)
    gate.touch()
    done = await until(bench, made.id)
    assert (done.status, done.attempt, done.suspect) == (E.COMPLETED, 1, 0)
