"""Files and checkpoints together, through runners: kept, brought back, refused by name."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.filework import names, places
from tests.integration.test_scheduling import Bench, bench
from wtb_ray import manifests
from wtb_ray.model import (
    Execution,
    FileTrackingConfig,
    ProjectSpec,
    ProjectVersion,
    WorkspaceIsolationConfig,
)
from wtb_ray.objects import ObjectStore
from wtb_ray.states import ExecutionStatus as E

__all__ = ["bench"]

TRACKED = FileTrackingConfig()
RESTS = (E.PAUSED, E.COMPLETED, E.FAILED, E.CANCELLED)


async def start(
    bench: Bench, entry: str, state: dict[str, Any], breakpoints: tuple[str, ...] = (), **spec: Any
) -> tuple[ProjectVersion, Execution]:
    version = await bench.register(
        ProjectSpec(name="files", entry=f"tests.filework:{entry}", **spec)
    )
    execution = await bench.store.executions.create(
        version, {}, state, recursion_limit=20, breakpoints=breakpoints, actor="test"
    )
    return version, execution


async def until(bench: Bench, id: str, *statuses: E, timeout_s: float = 60) -> Execution:
    async with asyncio.timeout(timeout_s):
        while (found := await bench.store.executions.get(id)).status not in (statuses or RESTS):
            await asyncio.sleep(0.02)
    return found


async def owner(bench: Bench, id: str) -> str:
    """The runner that an execution runs in."""
    found = (await bench.store.executions.get(id)).owner
    assert found is not None
    return found


async def eventually(true: Callable[[], bool], timeout_s: float = 60) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():
            await asyncio.sleep(0.02)


async def tree(bench: Bench, manifest: str | None) -> dict[str, bytes]:
    """The files of a manifest with their contents."""
    assert manifest is not None
    async with ObjectStore(bench.settings.objects()) as objects:
        found = await manifests.read(objects, manifest)
        return {p: await objects.get(e.value) for p, e in found.items() if e.kind == "file"}


async def texts(bench: Bench, manifest: str | None) -> dict[str, str]:
    return {path: data.decode() for path, data in (await tree(bench, manifest)).items()}


async def test_every_step_has_the_files_of_its_moment(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log"
    _, made = await start(bench, "line", {"log": str(log)}, file_tracking=TRACKED)
    done = await until(bench, made.id)
    assert done.status == E.COMPLETED, done.error
    steps = {s.step: s for s in await bench.store.executions.steps(made.id)}
    assert steps[-1].manifest is None
    assert await tree(bench, steps[0].manifest) == {}
    model = "\0" * 1000
    assert await texts(bench, steps[1].manifest) == {
        "notes/a.txt": "first\n",
        "output/model.bin": model,
    }
    assert (await texts(bench, steps[2].manifest))["notes/a.txt"] == "first\nsecond\n"
    assert steps[3].manifest == steps[2].manifest, "the third node wrote nothing"
    told = await bench.store.events.read(bench_start(), 100, execution_id=made.id)
    manifests_told = [e.payload["manifest"] for e in told if e.type == "step.completed"]
    assert manifests_told == [steps[n].manifest for n in (1, 2, 3)]
    assert not places(log)[0].exists(), "a completed execution leaves no directory"


def bench_start() -> Any:
    from wtb_ray.events import Cursor

    return Cursor.START


@pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
async def test_a_step_cut_off_halfway(bench: Bench, tmp_path: Path, tracked: bool) -> None:
    """`quick` has finished and written, `gated` dies with its runner."""
    log, gate = tmp_path / "log", tmp_path / "gate"
    state = {"log": str(log), "gate": str(gate)}
    more: dict[str, Any] = {"file_tracking": TRACKED} if tracked else {}
    _, made = await start(bench, "parallel", state, **more)
    await eventually(lambda: set(names(log)) == {"quick", "gated"})
    await pending_writes(bench, made.id)
    old = places(log)[0]
    first = await owner(bench, made.id)
    await bench.runners.kill(first)
    await eventually(lambda: names(log).count("gated") == 2)
    new = next(p for p in reversed(places(log)) if p != old)
    assert new.parent.parent == old.parent.parent
    gate.touch()
    done = await until(bench, made.id)
    assert done.status == E.COMPLETED, done.error
    assert names(log).count("quick") == (2 if tracked else 1)
    steps = {s.step: s for s in await bench.store.executions.steps(made.id)}
    if tracked:
        found = await texts(bench, steps[1].manifest)
        assert found == {"quick.txt": "quick\n", "half.txt": "whole"}
        assert (old / "half.txt").exists(), "the thread that went on wrote to its own directory"


async def pending_writes(bench: Bench, id: str) -> None:
    """Until what the finished node wrote is stored."""
    async with asyncio.timeout(30):
        while True:
            execution = await bench.store.executions.get(id)
            row = await bench.store.db.row(
                "SELECT count(*) AS n FROM checkpoint_writes WHERE thread_id = %s"
                " AND checkpoint_id = %s AND channel = 'done'",
                (execution.thread_id, execution.head),
            )
            if row is not None and row["n"]:
                return
            await asyncio.sleep(0.02)


async def test_answers_find_the_files_of_the_question(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log"
    _, made = await start(bench, "question", {"log": str(log)}, file_tracking=TRACKED)
    paused = await until(bench, made.id)
    assert (paused.status, paused.reason) == (E.PAUSED, "interrupt")
    assert set(await texts(bench, await bench.store.files.manifest_at(made.id))) == {
        "quick.txt",
        "asked.txt",
    }
    [asked] = await bench.store.control.asked(made.id)
    assert asked["value"] == {"question": "go on?"}
    await bench.store.control.answer(made.id, {asked["id"]: "yes"}, actor="me")
    done = await until(bench, made.id, *RESTS[1:])
    assert done.status == E.COMPLETED, done.error
    assert names(log).count("quick") == 1, "its files are there, so it does not run again"
    assert names(log).count("asking") == 2


async def test_paths_of_the_workspace_are_refused_in_state(bench: Bench, tmp_path: Path) -> None:
    state = {"log": str(tmp_path / "log"), "how": "absolute"}
    _, made = await start(bench, "line", state, file_tracking=TRACKED)
    failed = await until(bench, made.id)
    assert failed.status == E.FAILED
    assert failed.error is not None
    assert failed.error.code == "unstorable_value"
    assert "'path'" in failed.error.message
    assert "ref(" in failed.error.message


async def test_what_cannot_be_kept_fails_or_pauses_by_name(bench: Bench, tmp_path: Path) -> None:
    state = {"log": str(tmp_path / "log"), "how": "socket"}
    _, made = await start(bench, "line", state, file_tracking=TRACKED)
    failed = await until(bench, made.id)
    assert failed.error is not None
    assert (failed.status, failed.error.code) == (E.FAILED, "files_refused")
    assert "notes/s" in failed.error.message
    assert places(tmp_path / "log")[0].exists(), "a failed execution leaves its directory"

    pausing = FileTrackingConfig(on_error="pause")
    log = tmp_path / "other"
    _, made = await start(bench, "line", {**state, "log": str(log)}, file_tracking=pausing)
    paused = await until(bench, made.id)
    assert paused.status == E.PAUSED
    assert paused.reason is not None
    assert "notes/s" in paused.reason
    (places(log)[-1] / "notes" / "s").unlink()


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        (FileTrackingConfig(commit_on="node_complete"), [1, 2, 3]),
        (FileTrackingConfig(commit_on="manual"), []),
        (FileTrackingConfig(max_snapshots=2), [2, 3]),
        (FileTrackingConfig(enabled=False), []),
        (FileTrackingConfig(tracked_paths=("notes",)), [0, 1, 2, 3]),
    ],
    ids=["node_complete", "manual", "max_snapshots", "disabled", "tracked_paths"],
)
async def test_the_configuration_says_what_is_kept(
    bench: Bench, tmp_path: Path, config: FileTrackingConfig, steps: list[int]
) -> None:
    state = {"log": str(tmp_path / "log")}
    _, made = await start(bench, "line", state, file_tracking=config)
    assert (await until(bench, made.id)).status == E.COMPLETED
    await asyncio.sleep(0.1)  # what it leaves is tidied up after its end is told
    kept = {s.step: s.manifest for s in await bench.store.executions.steps(made.id) if s.manifest}
    assert sorted(kept) == steps
    if config.tracked_paths:
        assert set(await texts(bench, kept[3])) == {"notes/a.txt", "notes/b.txt"}


async def test_too_much_in_a_workspace_is_told(bench: Bench, tmp_path: Path) -> None:
    tiny = FileTrackingConfig(max_files=2)
    _, made = await start(bench, "line", {"log": str(tmp_path / "log")}, file_tracking=tiny)
    failed = await until(bench, made.id)
    assert failed.error is not None
    assert (failed.status, failed.error.code) == (E.FAILED, "quota_exceeded")


async def test_a_kept_directory_stays_and_an_untracked_one_goes(
    bench: Bench, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    keep = WorkspaceIsolationConfig(cleanup_on_complete=False)
    _, made = await start(bench, "line", {"log": str(log)}, workspace_isolation=keep)
    assert (await until(bench, made.id)).status == E.COMPLETED
    assert (places(log)[0] / "notes" / "b.txt").exists()
    log = tmp_path / "other"
    _, made = await start(bench, "line", {"log": str(log)})
    assert (await until(bench, made.id)).status == E.COMPLETED
    await eventually(lambda: not places(log)[0].exists(), 5)


async def test_a_node_that_never_ends_is_left_behind_when_stopped(
    bench: Bench, tmp_path: Path
) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    state = {"log": str(log), "gate": str(gate)}
    _, made = await start(bench, "parallel", state, file_tracking=TRACKED)
    await eventually(lambda: set(names(log)) == {"quick", "gated"})
    await bench.store.executions.request_stop(made.id, actor="me")
    began = time.monotonic()
    stopped = await until(bench, made.id)
    assert stopped.status == E.CANCELLED
    assert time.monotonic() - began < 10 + bench.settings.stop_grace_s
    gate.touch()
    _, other = await start(bench, "line", {"log": str(tmp_path / "next")}, file_tracking=TRACKED)
    assert (await until(bench, other.id)).status == E.COMPLETED
