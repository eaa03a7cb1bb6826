"""What node code does with a workspace: paths, references, and where it is when there is no bench."""

import asyncio
import contextvars
import os
import threading
from pathlib import Path

import pytest

import wtb_ray
from wtb_ray import errors
from wtb_ray.context import Context, Workspace, entered
from wtb_ray.workspaces import as_current_directory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "ws" / "e1" / "1" / "files"
    (root / "output").mkdir(parents=True)
    return root


@pytest.fixture
def workspace(root: Path) -> Workspace:
    return Workspace(str(root))


def run(workspace: Workspace) -> Context:
    return Context("e1", {}, "", workspace)


def test_it_is_a_path(workspace: Workspace, root: Path) -> None:
    (workspace / "notes.txt").write_text("hello")
    with open(os.path.join(workspace, "notes.txt")) as file:
        assert file.read() == "hello"
    assert (workspace.path, workspace.input, workspace.output) == (
        root,
        root / "input",
        root / "output",
    )
    assert str(workspace) == os.fspath(workspace) == str(root)


def test_output_is_there_even_if_a_node_removed_it(workspace: Workspace, root: Path) -> None:
    (root / "output").rmdir()
    (workspace.output / "result").write_text("1")


def test_a_reference_stands_for_the_same_file_in_another_directory(
    workspace: Workspace, tmp_path: Path
) -> None:
    ref = workspace.ref(workspace / "index" / "vectors.npy")
    assert ref == "workspace:index/vectors.npy"
    assert workspace.ref("index/vectors.npy") == workspace.ref(ref) == ref
    other = Workspace(str(tmp_path / "other"))
    assert other.resolve(ref) == other.resolve("index/vectors.npy") == other / "index/vectors.npy"
    assert workspace.resolve(workspace.ref(workspace)) == workspace.path


def test_a_path_that_was_resolved_over_links_can_be_referred_to(tmp_path: Path) -> None:
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    workspace = Workspace(str(tmp_path / "link"))
    assert workspace.ref((workspace / "a").resolve()) == "workspace:a"
    assert workspace.ref(f"{workspace}/sub/../a") == "workspace:a"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/etc/passwd", "outside"),
        ("../../2/files/a", "outside"),
        ("{root}/../../2/files/a", "outside"),
        ("{root}-more/a", "outside"),
        ("way-out/passwd", "escapes"),
        ("a\0b", "nul"),
        (os.fsdecode(b"caf\xe9"), "not_utf8"),
    ],
)
def test_what_is_not_in_the_workspace_has_no_reference(
    workspace: Workspace, root: Path, path: str, reason: str
) -> None:
    (root / "way-out").symlink_to("/etc")
    with pytest.raises(errors.InvalidRequest) as caught:
        workspace.ref(path.replace("{root}", str(root)))
    assert caught.value.details["reason"] == reason
    assert caught.value.details["path"].isprintable()


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        ("/etc/passwd", "absolute"),
        ("workspace:/etc/passwd", "absolute"),
        ("workspace:a/../../b", "parent"),
        ("..", "parent"),
        ("workspace:way-out/passwd", "escapes"),
        ("workspace:later/file", "escapes"),
        ("workspace:a\0", "nul"),
    ],
)
def test_a_reference_never_leads_out(
    workspace: Workspace, root: Path, ref: str, reason: str
) -> None:
    (root / "way-out").symlink_to("/etc")
    (root / "later").symlink_to("../../2/files")
    with pytest.raises(errors.InvalidRequest) as caught:
        workspace.resolve(ref)
    assert caught.value.details["reason"] == reason


def test_names_that_lead_out_are_refused_in_joins_too(workspace: Workspace) -> None:
    for name in ("/etc/passwd", "../x", "a/../../x"):
        with pytest.raises(errors.InvalidRequest, match="path"):
            workspace / name
    assert workspace / "workspace:a" == workspace / "a"


def test_a_commit_is_asked_for_once_until_taken(workspace: Workspace) -> None:
    assert not workspace.take_commit()
    thread = threading.Thread(target=workspace.commit)
    thread.start()
    thread.join()
    workspace.commit()
    assert workspace.take_commit()
    assert not workspace.take_commit()


async def test_every_run_has_its_own_in_coroutines_and_threads(tmp_path: Path) -> None:
    async def node(number: int) -> None:
        mine = Workspace(str(tmp_path / str(number)))
        with entered(run(mine)):
            await asyncio.sleep(0)
            assert wtb_ray.workspace() is mine
            assert await asyncio.to_thread(wtb_ray.workspace) is mine
            found: list[Workspace] = []
            context = contextvars.copy_context()
            thread = threading.Thread(
                target=context.run, args=(lambda: found.append(wtb_ray.workspace()),)
            )
            thread.start()
            await asyncio.sleep(0)
            thread.join()
            assert found == [mine]

    await asyncio.gather(*(node(i) for i in range(20)))


def test_outside_the_bench_it_is_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WTB_WORKSPACE", raising=False)
    monkeypatch.delenv("WTB_IN_RUNNER", raising=False)
    monkeypatch.chdir(tmp_path)
    assert wtb_ray.workspace().path == tmp_path
    (wtb_ray.workspace().output / "x").write_text("1")
    wtb_ray.workspace().commit()
    monkeypatch.setenv("WTB_WORKSPACE", str(tmp_path / "named"))
    assert wtb_ray.workspace().ref(tmp_path / "named" / "a") == "workspace:a"


def test_a_thread_of_nobody_gets_no_directory_that_all_executions_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WTB_WORKSPACE", raising=False)
    monkeypatch.setenv("WTB_IN_RUNNER", "1")
    with pytest.raises(errors.Conflict, match="copy_context"):
        wtb_ray.workspace()
    with entered(run(Workspace(str(tmp_path)))):
        assert wtb_ray.workspace().path == tmp_path


def test_the_directory_is_made_once_however_many_ask_for_it_first(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> None:
        made.append(1)
        (tmp_path / "late").mkdir()

    workspace = Workspace(str(tmp_path / "late"), make=make)
    with entered(run(workspace)):
        context = contextvars.copy_context()
        threads = [
            threading.Thread(target=context.copy().run, args=(wtb_ray.workspace,)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert made == [1]


def test_after_its_run_nothing_is_made_and_nothing_kept(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path / "late"), make=(tmp_path / "late").mkdir)
    with entered(run(workspace)):
        workspace.end()
        with pytest.raises(errors.Conflict, match="is over"):
            wtb_ray.workspace()
        with pytest.raises(errors.Conflict, match="is over"):
            workspace.commit()
    assert not (tmp_path / "late").exists()


def test_a_process_alone_works_in_its_workspace(
    workspace: Workspace, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WTB_WORKSPACE", "before")
    monkeypatch.chdir(tmp_path)

    def node() -> None:
        with as_current_directory(workspace):
            Path("plain.txt").write_text("no bench in sight")
            assert wtb_ray.workspace().path == root
            raise ValueError("a node fails")

    with pytest.raises(ValueError, match="a node fails"):
        node()
    assert (root / "plain.txt").exists()
    assert Path.cwd() == tmp_path
    assert os.environ["WTB_WORKSPACE"] == "before"


def test_a_process_alone_comes_back_from_a_directory_that_is_gone(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WTB_WORKSPACE", raising=False)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with as_current_directory(workspace):
        assert Path.cwd() == workspace.path
    assert "WTB_WORKSPACE" not in os.environ
