"""Workspaces under real graphs and on a real database: each execution for itself."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.graph_bench import GraphBench, Ran
from tests.integration.store_bench import StoreBench
from tests.integration.test_lifecycle import Processes
from wtb_ray import graphs, homes, locks
from wtb_ray.actors.lifecycle import ActorLifecycle
from wtb_ray.actors.sweeping import sweep_host
from wtb_ray.attachments import Attachment
from wtb_ray.db import Database
from wtb_ray.events import Cursor
from wtb_ray.homes import Home
from wtb_ray.locks import Owner
from wtb_ray.model import WorkspaceIsolationConfig
from wtb_ray.objects import ObjectStore
from wtb_ray.settings import Settings
from wtb_ray.states import ExecutionStatus
from wtb_ray.workspaces import OpenWorkspace, Workspaces, as_current_directory

AT_ONCE = 100
WRITTEN = ["async.txt", "sync.txt", "thread.txt"]


@pytest_asyncio.fixture
async def spaces(tmp_path: Path) -> AsyncIterator[Workspaces]:
    async with ObjectStore(f"file://{tmp_path / 'objects'}") as objects:
        spaces = Workspaces(tmp_path / "ws", objects, runner="r1")
        yield spaces
        spaces.close()


async def run(ran: Ran, opened: OpenWorkspace, spaces: Workspaces) -> graphs.Outcome:
    """Runs it as a runner does, in its workspace."""
    one, saver = ran.assignment, ran.bench.saver
    attachment = Attachment(
        one.execution_id,
        one.epoch,
        one.thread_id,
        project=one.project,
        actor=ran.bench.runner,
        forbidden_prefix=str(spaces.root),
        workspace=opened.workspace,
    )
    saver.attach(attachment)
    try:
        return await graphs.run(ran.bench.graphs.compiled(one.binding), attachment, one)
    finally:
        saver.detach(one.thread_id)


async def open_for(ran: Ran, spaces: Workspaces, **how: Any) -> OpenWorkspace:
    return await spaces.open(ran.id, ran.assignment.epoch, **how)


@pytest.mark.parametrize("isolation", [None, WorkspaceIsolationConfig()])
async def test_a_hundred_executions_at_once_write_each_in_its_own_directory(
    db: Database, spaces: Workspaces, isolation: WorkspaceIsolationConfig | None
) -> None:
    bench = await GraphBench.make(db, "tests.filing:files")
    started = [await bench.execution({"name": f"n{i}"}) for i in range(AT_ONCE)]

    async def one(ran: Ran) -> Path:
        opened = await open_for(ran, spaces, isolation=isolation)
        outcome = await run(ran, opened, spaces)
        assert (outcome.kind, outcome.fault) == ("completed", None)
        assert outcome.values is not None
        assert outcome.values["seen"] == WRITTEN
        assert sorted(outcome.values["refs"]) == [f"workspace:{name}" for name in WRITTEN]
        return opened.root

    roots = await asyncio.gather(*(one(ran) for ran in started))
    assert len(set(roots)) == AT_ONCE
    for number, root in enumerate(roots):
        assert {p.name: p.read_text() for p in root.iterdir() if p.is_file()} == dict.fromkeys(
            WRITTEN, f"n{number}"
        )


async def test_executions_that_never_ask_touch_no_disk(db: Database, spaces: Workspaces) -> None:
    bench = await GraphBench.make(db, "tests.filing:fileless")
    ran = await bench.execution({"name": "x"})
    opened = await open_for(ran, spaces)
    assert (await run(ran, opened, spaces)).kind == "completed"
    await opened.close(keep=False)
    assert not spaces.root.exists()


@pytest.mark.parametrize("shape", ["text", "path", "nested", "root"])
async def test_an_absolute_path_of_a_workspace_is_refused_in_state_by_its_channel(
    db: Database, spaces: Workspaces, shape: str
) -> None:
    bench = await GraphBench.make(db, "tests.filing:unstorable")
    ran = await bench.execution({"name": shape})
    outcome = await run(ran, await open_for(ran, spaces), spaces)
    assert outcome.kind == "failed"
    assert outcome.fault is not None
    assert outcome.fault.code == "unstorable_value"
    assert "where" in outcome.fault.message


async def test_code_that_knows_no_workspace_is_in_it_when_it_is_alone_in_a_process(
    db: Database, spaces: Workspaces, tmp_path: Path
) -> None:
    bench = await GraphBench.make(db, "tests.filing:unaware")
    before = Path.cwd()
    ran = await bench.execution({"name": "x"})
    opened = await open_for(ran, spaces, isolation=WorkspaceIsolationConfig(isolation="process"))
    with as_current_directory(opened.workspace):
        outcome = await run(ran, opened, spaces)
        script = "import wtb_ray; print(wtb_ray.workspace())"
        child = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
        )
    assert outcome.values is not None
    assert outcome.values["seen"] == ["workspace:plain.txt"]
    assert (opened.root / "plain.txt").read_text() == "x"
    assert child.stdout.strip() == str(opened.root)
    assert Path.cwd() == before


async def test_executions_say_how_they_stand(db: Database) -> None:
    bench = await StoreBench.make(db)
    await bench.runner()
    waiting, running = await bench.execution(), await bench.execution(priority=1)
    [held] = await bench.claim(limit=1)
    assert held.execution_id == running.id
    assert await bench.store.executions.standing([waiting.id, running.id, "e-unknown"]) == {
        waiting.id: (ExecutionStatus.PENDING, 0),
        running.id: (ExecutionStatus.RUNNING, 1),
    }
    assert await bench.store.executions.standing([]) == {}


def orphan(root: Path, id: str) -> Path:
    process = subprocess.Popen([sys.executable, "-c", ""])
    owner = Owner.here("r-gone")
    process.wait()
    gone = {**vars(owner), "pid": process.pid}
    return homes.take(Home(root, id, 1), Owner(**gone)).path


async def swept_events(bench: StoreBench) -> list[dict[str, Any]]:
    rows = await bench.store.events.read(Cursor.START, types=["workspaces.swept"])
    return [row.payload for row in rows]


async def test_a_host_is_swept_by_the_rows_of_its_executions(db: Database, tmp_path: Path) -> None:
    bench = await StoreBench.make(db)
    await bench.runner()
    paused, failed = await bench.execution(), await bench.execution()
    held = {one.execution_id: one for one in await bench.claim()}
    assert await bench.settle(held[paused.id], "pause", reason="requested") is None
    await bench.store.executions.request_stop(failed.id, actor="me")
    assert await bench.settle(held[failed.id], "cancel") is None
    settings = Settings(data_dir=tmp_path, workspace_grace_s=0.001)
    root = settings.workspaces()
    kept, gone = orphan(root, paused.id), [orphan(root, failed.id), orphan(root, "e-unknown")]
    alive = homes.take(Home(root, "e-other", 1), Owner.here("r1"))
    report = await sweep_host(settings, db, actor="r1")
    assert (report.removed, report.kept) == (0, 2)
    assert await swept_events(bench) == []
    await asyncio.sleep(0.01)
    report = await sweep_host(settings, db, actor="r1")
    assert (report.removed, report.kept) == (2, 0)
    assert not any(path.exists() for path in gone)
    assert kept.exists()
    assert not locks.free(alive.path)
    [event] = await swept_events(bench)
    assert (event["removed"], event["kept"]) == (2, 0)
    assert event["freed_bytes"] == report.freed_bytes > 0


async def test_the_lifecycle_sweeps_its_host(db: Database, url: str, tmp_path: Path) -> None:
    bench = await StoreBench.make(db)
    settings = Settings(data_dir=tmp_path, workspace_grace_s=0.001)
    path = orphan(settings.workspaces(), "e-unknown")
    lifecycle = ActorLifecycle(settings, url, Processes())
    try:
        async with asyncio.timeout(30):
            while path.exists() or not await swept_events(bench):
                await asyncio.sleep(0.02)
    finally:
        await lifecycle.close()
    assert [event["removed"] for event in await swept_events(bench)] == [1]
