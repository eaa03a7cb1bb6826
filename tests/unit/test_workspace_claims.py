"""A claim's directory from its opening to its end, and what a takeover makes of it."""

import asyncio
import dataclasses
import errno
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from wtb_ray import errors
from wtb_ray.model import FileTrackingConfig, WorkspaceIsolationConfig
from wtb_ray.objects import ObjectStore
from wtb_ray.states import ExecutionStatus
from wtb_ray.workspaces import OpenWorkspace, Workspaces

ISOLATED = WorkspaceIsolationConfig()
TRACKED = FileTrackingConfig()


class Host:
    """Runner processes of one host, as far as workspaces go."""

    def __init__(self, path: Path, objects: ObjectStore):
        self.path = path
        self.root = path / "ws"
        self.objects = objects
        self.runners: list[Workspaces] = []

    def runner(self, name: str = "r1") -> Workspaces:
        self.runners.append(Workspaces(self.root, self.objects, runner=name))
        return self.runners[-1]

    def dead(self) -> Workspaces:
        """A runner whose process is gone, as others see it."""
        spaces = self.runner("dead")
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        spaces.owner = dataclasses.replace(spaces.owner, pid=gone.pid)
        return spaces

    def homes(self, execution: str = "e1") -> list[str]:
        folder = self.root / execution
        return sorted(os.listdir(folder)) if folder.exists() else []


@pytest_asyncio.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with ObjectStore(f"file://{tmp_path / 'objects'}") as objects:
        host = Host(tmp_path, objects)
        yield host
        for spaces in host.runners:
            spaces.close()


def bundle(host: Host) -> Path:
    folder = host.path / "bundle"
    folder.mkdir(exist_ok=True)
    (folder / "data.csv").write_text("1,2,3\n")
    return folder


async def test_what_never_asks_leaves_nothing(host: Host) -> None:
    opened = await host.runner().open("e1", 1)
    assert not opened.made
    assert await opened.commit() is None
    await opened.close(keep=False)
    assert not host.root.exists()


async def test_what_asks_gets_a_directory_until_it_is_done(host: Host) -> None:
    opened = await host.runner().open("e1", 1)
    workspace = opened.workspace.ready()
    (workspace / "a").write_text("1")
    assert opened.root == workspace.path == host.root / "e1" / "1" / "files"
    assert os.listdir(workspace.output) == []
    await opened.close(keep=False)
    assert host.homes() == []
    assert sorted(os.listdir(host.root)) == [".trash"]
    assert os.listdir(host.root / ".trash") == []


@pytest.mark.parametrize("isolation", [None, ISOLATED])
async def test_a_paused_execution_finds_its_files_again(
    host: Host, isolation: WorkspaceIsolationConfig | None
) -> None:
    opened = await host.runner().open("e1", 1, isolation=isolation)
    (opened.workspace.ready() / "notes").write_text("kept")
    await opened.close(keep=True)
    later = await host.runner("r2").open("e1", 4, isolation=isolation)
    assert (later.workspace.ready() / "notes").read_text() == "kept"
    assert later.reused
    assert host.homes() == ["4"]
    await later.close(keep=False)
    assert host.homes() == []


async def test_what_was_kept_goes_with_an_execution_that_asks_no_more(host: Host) -> None:
    opened = await host.runner().open("e1", 1)
    opened.workspace.ready()
    await opened.close(keep=True)
    await (await host.runner().open("e1", 2)).close(keep=False)
    assert host.homes() == []


async def test_a_dead_runner_s_directory_goes_on_and_a_living_one_s_does_not(host: Host) -> None:
    for runner, reused in ((host.dead(), True), (host.runner(), False)):
        name = f"e-{reused}"
        before = await runner.open(name, 1, isolation=ISOLATED)
        (before.workspace / "notes").write_text("from before")
        after = await host.runner("r2").open(name, 2, isolation=ISOLATED)
        assert after.reused == reused
        assert (after.workspace / "notes").exists() == reused
        assert host.homes(name) == (["2"] if reused else ["1", "2"])


async def test_a_zombie_writes_where_nobody_looks(host: Host) -> None:
    """A thread of a runner that was taken for dead goes on writing, tracking or not."""
    zombie = await host.runner("zombie").open("e1", 1, tracking=TRACKED)
    (zombie.workspace / "model").write_text("good")
    manifest = await zombie.commit()
    stop, wrote = threading.Event(), threading.Event()

    def node() -> None:
        while not stop.is_set():
            (zombie.workspace / "model").write_text("bad")
            (zombie.workspace / "more").write_text("bad")
            wrote.set()

    thread = threading.Thread(target=node)
    thread.start()
    try:
        assert await asyncio.to_thread(wrote.wait, 10)
        after = await host.runner("r2").open("e1", 2, tracking=TRACKED, manifest=manifest)
        assert (after.workspace / "model").read_text() == "good"
        assert await after.commit() == manifest
        assert not (after.workspace / "more").exists()
    finally:
        stop.set()
        thread.join()
    zombie.abandon()
    await after.close(keep=False)
    # Its process lives, so its directory is left to the sweep that finds it dead.
    assert host.homes() == ["1"]


async def test_a_zombie_that_asks_late_is_refused(host: Host) -> None:
    zombie = await host.runner("zombie").open("e1", 1)
    await host.runner("r2").open("e1", 2, isolation=ISOLATED)
    with pytest.raises(errors.Fenced):
        zombie.workspace.ready()
    assert host.homes() == ["2"]


async def test_tracked_files_are_those_of_the_restore_point(host: Host) -> None:
    dead = await host.dead().open("e1", 1, tracking=TRACKED)
    (dead.workspace / "kept").write_text("1")
    manifest = await dead.commit()
    (dead.workspace / "kept").write_text("half written")
    (dead.workspace / "new").write_text("by a node that will run again")
    (dead.workspace / "untracked.log").write_text("stays")
    seen = []

    async def witness(restored: object) -> None:
        seen.append(restored)

    after = await host.runner("r2").open(
        "e1", 2, tracking=TRACKED, manifest=manifest, witness=witness
    )
    assert (after.workspace / "kept").read_text() == "1"
    assert not (after.workspace / "new").exists()
    assert (after.workspace / "untracked.log").exists()
    assert after.workspace.output.is_dir()
    assert after.restored is not None
    assert after.restored.displaced not in (None, manifest)
    assert seen == [after.restored]
    # What was displaced is an object tree like any other.
    await after.close(keep=True)
    again = await host.runner("r3").open(
        "e1", 3, tracking=TRACKED, manifest=after.restored.displaced
    )
    assert (again.workspace / "new").read_text() == "by a node that will run again"


async def test_a_run_cut_off_before_its_first_restore_point_begins_with_nothing(
    host: Host,
) -> None:
    dead = await host.dead().open("e1", 1, tracking=TRACKED)
    (dead.workspace / "half").write_text("1")
    after = await host.runner("r2").open("e1", 2, tracking=TRACKED)
    assert os.listdir(after.workspace) == ["output"]


async def test_another_host_makes_the_tree_from_objects(host: Host, tmp_path: Path) -> None:
    first = await host.runner().open("e1", 1, tracking=TRACKED)
    (first.workspace / "a").write_text("1")
    manifest = await first.commit()
    elsewhere = Workspaces(tmp_path / "elsewhere", host.objects, runner="r2")
    after = await elsewhere.open("e1", 2, tracking=TRACKED, manifest=manifest)
    assert (after.workspace / "a").read_text() == "1"
    assert not after.reused
    elsewhere.close()


async def test_what_cannot_be_kept_is_left_where_it_was(host: Host) -> None:
    dead = await host.dead().open("e1", 1, tracking=TRACKED)
    (dead.workspace / "a").write_text("1")
    manifest = await dead.commit()
    os.mkfifo(dead.workspace / "pipe")
    (dead.workspace / "a").write_text("precious")
    after = await host.runner("r2").open("e1", 2, tracking=TRACKED, manifest=manifest)
    assert (after.workspace / "a").read_text() == "1"
    assert not after.reused
    assert host.homes() == ["1", "2"]
    assert (host.root / "e1" / "1" / "files" / "a").read_text() == "precious"


async def test_an_opening_that_fails_leaves_everything_as_it_was(host: Host) -> None:
    before = await host.runner().open("e1", 1, tracking=TRACKED)
    (before.workspace / "a").write_text("1")
    await before.close(keep=True)
    missing = "0" * 64
    for _ in range(2):
        with pytest.raises(errors.RestoreRefused):
            await host.runner().open("e1", 2, tracking=TRACKED, manifest=missing)
        assert host.homes() == ["1"]
    wrong = WorkspaceIsolationConfig(inputs=("nothing",))
    with pytest.raises(errors.FilesRefused, match="nothing"):
        await host.runner().open("e1", 2, isolation=wrong, bundle=bundle(host))
    assert (host.root / "e1" / "1" / "files" / "a").read_text() == "1"
    with pytest.raises(errors.RestoreRefused):
        await host.runner().open("e2", 1, tracking=TRACKED, manifest=missing)
    assert host.homes("e2") == []


async def commits(opened: OpenWorkspace) -> list[bool]:
    """Whether files are kept at the input, after a step, and after a step whose node asked."""
    kept = [await opened.commit(ran=False) is not None, await opened.commit() is not None]
    opened.workspace.commit()
    return [*kept, await opened.commit() is not None, await opened.commit(ran=False) is not None]


@pytest.mark.parametrize(
    ("commit_on", "kept"),
    [
        ("checkpoint", [True, True, True, True]),
        ("node_complete", [False, True, True, False]),
        ("manual", [False, False, True, False]),
    ],
)
async def test_files_are_kept_when_the_project_says(
    host: Host, commit_on: str, kept: list[bool]
) -> None:
    config = FileTrackingConfig.model_validate({"commit_on": commit_on})
    assert await commits(await host.runner().open("e1", 1, tracking=config)) == kept


async def test_a_commit_that_failed_is_still_asked_for(host: Host) -> None:
    config = FileTrackingConfig(commit_on="manual")
    opened = await host.runner().open("e1", 1, tracking=config)
    os.mkfifo(opened.workspace / "pipe")
    opened.workspace.commit()
    with pytest.raises(errors.FilesRefused, match="pipe"):
        await opened.commit()
    (opened.workspace / "pipe").unlink()
    assert await opened.commit() == opened.manifest is not None


async def test_a_quota_is_looked_at_where_files_are_kept(host: Host) -> None:
    isolation = WorkspaceIsolationConfig(quota_mb=1)
    opened = await host.runner().open("e1", 1, tracking=TRACKED, isolation=isolation)
    (opened.workspace / "big").write_bytes(bytes(2 << 20))
    with pytest.raises(errors.QuotaExceeded):
        await opened.commit()


async def test_tracking_that_is_switched_off_keeps_nothing(host: Host) -> None:
    opened = await host.runner().open("e1", 1, tracking=FileTrackingConfig(enabled=False))
    opened.workspace.ready()
    assert await opened.commit() is None


@pytest.mark.parametrize("strategy", ["full_copy", "hardlink_with_fallback", "symlink"])
async def test_inputs_are_there_read_only_and_no_part_of_the_tree(
    host: Host, strategy: str
) -> None:
    isolation = WorkspaceIsolationConfig.model_validate(
        {"inputs": ["data.csv"], "strategy": strategy}
    )
    opened = await host.runner().open(
        "e1", 1, tracking=TRACKED, isolation=isolation, bundle=bundle(host)
    )
    assert (opened.workspace.input / "data.csv").read_text() == "1,2,3\n"
    assert opened.workspace.ref(opened.workspace.input / "data.csv") == "workspace:input/data.csv"
    with_inputs = await opened.commit()
    plain = await host.runner().open("e2", 1, tracking=TRACKED)
    assert await plain.commit() == with_inputs
    await opened.close(keep=False)
    assert host.homes() == []


@pytest.mark.parametrize("strategy", ["full_copy", "hardlink_with_fallback", "symlink"])
async def test_changed_inputs_are_told_of_and_right_for_the_next_claim(
    host: Host, strategy: str
) -> None:
    isolation = WorkspaceIsolationConfig.model_validate(
        {"inputs": ["data.csv"], "strategy": strategy}
    )
    runner = host.runner()
    opened = await runner.open("e1", 1, isolation=isolation, bundle=bundle(host))
    path = opened.workspace.input / "data.csv"
    path.chmod(0o644)
    path.write_text("wrong")
    await opened.close(keep=True)
    after = await runner.open("e1", 2, isolation=isolation, bundle=bundle(host))
    assert [*opened.healed, *after.healed] == ["input/data.csv"]
    assert (after.workspace.input / "data.csv").read_text() == "1,2,3\n"
    other = await runner.open("e2", 1, isolation=isolation, bundle=bundle(host))
    assert (other.workspace.input / "data.csv").read_text() == "1,2,3\n"
    assert other.healed == []


async def test_whatever_modes_its_files_have_a_workspace_can_be_removed(host: Host) -> None:
    opened = await host.runner().open("e1", 1)
    deep = opened.workspace.ready() / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    (deep / "file").chmod(0)
    (deep / "link").symlink_to("/etc")
    deep.chmod(0)
    await opened.close(keep=False)
    assert host.homes() == []
    assert os.listdir("/etc")


@pytest.mark.parametrize(
    ("config", "status", "kept"),
    [
        ({}, ExecutionStatus.COMPLETED, False),
        ({}, ExecutionStatus.CANCELLED, False),
        ({}, ExecutionStatus.FAILED, True),
        ({}, ExecutionStatus.PAUSED, True),
        ({}, ExecutionStatus.PENDING, True),
        ({"cleanup_on_complete": False}, ExecutionStatus.COMPLETED, True),
        ({"preserve_on_failure": False}, ExecutionStatus.FAILED, False),
    ],
)
async def test_what_is_kept_is_the_project_s_choice(
    host: Host, config: dict[str, bool], status: ExecutionStatus, kept: bool
) -> None:
    isolation = WorkspaceIsolationConfig.model_validate(config)
    assert (await host.runner().open("e1", 1, isolation=isolation)).keeps(status) == kept


@pytest.mark.parametrize(
    ("code", "error"),
    [(errno.ENOSPC, errors.StorageFull), (errno.EROFS, errors.ConfigurationError)],
)
async def test_a_disk_that_takes_nothing_is_named(
    host: Host,
    code: int,
    error: type[errors.WTBError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code), str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(error) as caught:
            await host.runner().open("e1", 1, isolation=ISOLATED)
    assert caught.value.details["path"].startswith(str(host.root))
    assert caught.value.details["reason"] == os.strerror(code)


FIGHT = """
import sys
from pathlib import Path
from wtb_ray import errors, homes, locks
root, epoch = Path(sys.argv[1]), int(sys.argv[2])
owner = locks.Owner.here(f"r{epoch}")
print("ready", flush=True)
sys.stdin.readline()
got = []
for n in range(40):
    try:
        home = homes.take(homes.Home(root, f"e{n}", epoch), owner)
        (home.files / "by").write_text(str(epoch))
        got.append("kept" if home.former == 1 else "new")
    except errors.Fenced:
        got.append("late")
print(*got, flush=True)
sys.stdin.readline()
"""


async def test_two_processes_that_fight_for_a_directory_never_share_it(host: Host) -> None:
    dead = host.dead()
    for n in range(40):
        opened = await dead.open(f"e{n}", 1, isolation=ISOLATED)
        (opened.workspace / "mark").write_text("x")
    fighters = {
        epoch: subprocess.Popen(
            [sys.executable, "-c", FIGHT, str(host.root), str(epoch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for epoch in (2, 3)
    }
    results: dict[int, list[str]] = {}
    try:
        for fighter in fighters.values():
            assert fighter.stdout is not None
            assert fighter.stdout.readline() == "ready\n"
        for word in range(2):
            for epoch, fighter in fighters.items():
                assert fighter.stdin is not None
                assert fighter.stdout is not None
                fighter.stdin.write("\n")
                fighter.stdin.flush()
                if word:
                    results[epoch] = fighter.stdout.readline().split()
    finally:
        for fighter in fighters.values():
            fighter.communicate()
    for n in range(40):
        outcomes = {epoch: results[epoch][n] for epoch in (2, 3)}
        assert list(outcomes.values()).count("kept") == 1
        assert outcomes in ({2: "kept", 3: "new"}, {2: "late", 3: "kept"})
        for epoch, outcome in outcomes.items():
            files = host.root / f"e{n}" / str(epoch) / "files"
            if outcome != "late":
                assert (files / "by").read_text() == str(epoch)
                assert (files / "mark").exists() == (outcome == "kept")
    assert all(len(results[epoch]) == 40 for epoch in (2, 3))
