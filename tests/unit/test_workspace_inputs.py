"""Inputs of a workspace: where they come from, that they are read only, and that changes are noticed."""

import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from wtb_ray import errors, inputs
from wtb_ray.inputs import Inputs, Strategy

STRATEGIES: tuple[Strategy, ...] = ("full_copy", "hardlink_with_fallback", "symlink")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    bundle = tmp_path / "bundle"
    (bundle / "corpus" / "deep").mkdir(parents=True)
    (bundle / "corpus" / "empty").mkdir()
    (bundle / "corpus" / "__pycache__").mkdir()
    (bundle / "corpus" / "__pycache__" / "a.pyc").write_bytes(b"\0")
    (bundle / "corpus" / "a.txt").write_text("alpha")
    (bundle / "corpus" / "deep" / "b.txt").write_text("beta")
    (bundle / "tool.sh").write_text("#!/bin/sh\n")
    (bundle / "tool.sh").chmod(0o755)
    (bundle / "secret.txt").write_text("not asked for")
    return bundle


@pytest.fixture
def kept(tmp_path: Path, bundle: Path) -> Inputs:
    return inputs.keep(tmp_path / "ws", bundle, ("corpus", "tool.sh"))


def tree(root: Path) -> dict[str, str | None]:
    return {
        str(p.relative_to(root)): p.read_text() if p.is_file() else None for p in root.rglob("*")
    }


FILES = {
    "corpus": None,
    "corpus/a.txt": "alpha",
    "corpus/deep": None,
    "corpus/deep/b.txt": "beta",
    "corpus/empty": None,
    "tool.sh": "#!/bin/sh\n",
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_files_asked_for_are_there_and_read_only(
    kept: Inputs, tmp_path: Path, strategy: Strategy
) -> None:
    target = tmp_path / "input"
    kept.place(target, strategy)
    assert tree(target) == FILES
    for path in (target, *target.rglob("*")):
        assert not path.stat().st_mode & 0o222 or path.is_symlink()
    assert os.access(target / "tool.sh", os.X_OK)
    assert (target / "corpus" / "a.txt").is_symlink() == (strategy == "symlink")
    assert kept.changed(target, strategy) == []


def test_the_whole_folder_may_be_an_input(tmp_path: Path, bundle: Path) -> None:
    inputs.keep(tmp_path / "ws", bundle, (".",)).place(tmp_path / "input", "full_copy")
    assert tree(tmp_path / "input") == {**FILES, "secret.txt": "not asked for"}


def test_inputs_are_kept_once_for_all_processes(tmp_path: Path, bundle: Path) -> None:
    first = inputs.keep(tmp_path / "ws", bundle, ("corpus", "tool.sh"))
    second = inputs.keep(tmp_path / "ws", bundle, ("tool.sh", "corpus"))
    assert first.files == second.files
    assert inputs.keep(tmp_path / "ws", bundle, ("corpus",)).files != first.files
    assert [p for p in (tmp_path / "ws" / ".inputs").iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd", "absolute"),
        ("../bundle/corpus", "parent"),
        ("corpus/../../x", "parent"),
        ("nothing", "missing"),
        ("corpus/a.txt/x", "missing"),
        ("", "empty"),
        ("a\0", "nul"),
        ("way-out", "link"),
        ("way-out/passwd", "link"),
        ("linked", "link"),
        ("special", "special"),
    ],
)
def test_what_is_no_file_of_the_project_is_refused_by_name(
    bundle: Path, name: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bundle / "way-out").symlink_to("/etc")
    (bundle / "linked").mkdir()
    (bundle / "linked" / "passwd").symlink_to("/etc/passwd")
    monkeypatch.chdir(bundle)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind("special")
    with pytest.raises(errors.InvalidRequest) as caught:
        inputs.check(bundle, ("corpus", name))
    assert caught.value.details["reason"] == reason
    assert caught.value.details["field"] == "workspace_isolation.inputs"
    assert name in caught.value.details["path"] or reason == "link"


def test_inputs_need_a_bundle() -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        inputs.check(None, ("corpus",))
    assert caught.value.details["reason"] == "no_bundle"
    inputs.check(None, ())


def overwrite(path: Path, text: str) -> None:
    """Writes as a stubborn program does: into the file that is there, whatever its mode."""
    path.chmod(0o644)
    with path.open("r+") as file:
        file.write(text)
        file.truncate()


@pytest.mark.parametrize("text", ["wrong", "longer than before", ""])
def test_a_change_through_a_link_is_made_good_for_everybody(
    kept: Inputs, tmp_path: Path, text: str
) -> None:
    mine, other, copied = (tmp_path / name for name in ("mine", "other", "copied"))
    kept.place(mine, "symlink")
    kept.place(other, "symlink")
    kept.place(copied, "full_copy")
    assert kept.heal("symlink") == []
    overwrite(mine / "corpus" / "a.txt", text)
    assert kept.heal("symlink") == ["corpus/a.txt"]
    assert tree(mine) == tree(other) == FILES
    assert kept.changed(copied, "full_copy") == []
    assert not (kept.files / "corpus/a.txt").stat().st_mode & 0o222
    assert kept.heal("symlink") == []


def test_a_change_that_hides_is_found_by_another_process(
    kept: Inputs, tmp_path: Path, bundle: Path
) -> None:
    path = kept.files / "corpus" / "a.txt"
    before = path.stat()
    overwrite(path, "wrong")
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = inputs.keep(tmp_path / "ws", bundle, ("corpus", "tool.sh"))
    assert again.heal("hardlink_with_fallback") == ["corpus/a.txt"]


def test_what_was_removed_or_replaced_where_inputs_are_kept_comes_back(
    kept: Inputs, tmp_path: Path
) -> None:
    (kept.files / "tool.sh").unlink()
    (kept.files / "corpus" / "a.txt").unlink()
    (kept.files / "corpus" / "a.txt").mkdir()
    (kept.files / "corpus" / "deep" / "b.txt").unlink()
    (kept.files / "corpus" / "deep" / "b.txt").symlink_to("/etc/passwd")
    assert kept.heal("symlink") == ["corpus/a.txt", "corpus/deep/b.txt", "tool.sh"]
    kept.place(tmp_path / "input", "full_copy")
    assert tree(tmp_path / "input") == FILES


def test_a_bundle_that_was_changed_too_heals_nothing(kept: Inputs, bundle: Path) -> None:
    (bundle / "corpus" / "a.txt").write_text("wrong")
    overwrite(kept.files / "corpus" / "a.txt", "wrong")
    with pytest.raises(errors.ObjectCorrupt, match=r"corpus/a\.txt"):
        kept.heal("symlink")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_a_takeover_finds_changed_is_put_in_place_anew(
    kept: Inputs, tmp_path: Path, strategy: Strategy
) -> None:
    target = tmp_path / "input"
    kept.place(target, strategy)
    (target / "corpus").chmod(0o755)
    (target / "corpus" / "a.txt").unlink()
    (target / "corpus" / "a.txt").write_text("wrong")
    (target / "corpus" / "new").mkdir(mode=0)
    (target / "tool.sh").unlink()
    assert kept.changed(target, strategy) == ["corpus/a.txt", "corpus/new", "tool.sh"]
    kept.replace(target, strategy)
    assert tree(target) == FILES
    assert kept.changed(target, strategy) == []


def test_root_gets_no_hard_links(kept: Inputs, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("root")
    kept.place(tmp_path / "input", "hardlink_with_fallback")
    assert (tmp_path / "input" / "corpus" / "a.txt").stat().st_nlink == 1


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EMLINK, errno.EPERM])
def test_where_no_hard_link_can_be_made_there_is_a_copy(
    kept: Inputs, tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "link", link)
    kept.place(tmp_path / "input", "hardlink_with_fallback")
    assert tree(tmp_path / "input") == FILES


AS_NOBODY = """
import os, shutil, sys
from pathlib import Path
from wtb_ray import inputs, removal
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
here = Path(sys.argv[1])
(here / "bundle").mkdir()
(here / "bundle" / "a.txt").write_text("alpha")
kept = inputs.keep(here / "ws", here / "bundle", ("a.txt",))
mine, other = here / "mine", here / "other"
for target in (mine, other):
    kept.place(target, "hardlink_with_fallback")
assert (mine / "a.txt").stat().st_nlink == 3, "linked"
assert kept.heal("hardlink_with_fallback") == []
for refused in (lambda: (mine / "a.txt").write_text("wrong"), lambda: (mine / "a.txt").unlink(),
                lambda: (mine / "b.txt").write_text("new")):
    try:
        refused()
    except PermissionError:
        pass
    else:
        raise AssertionError("it is not read only")
(mine / "a.txt").chmod(0o644)
(mine / "a.txt").write_text("wrong")
assert kept.heal("hardlink_with_fallback") == ["a.txt"]
assert (mine / "a.txt").read_text() == (other / "a.txt").read_text() == "alpha"
assert (mine / "a.txt").stat().st_nlink == 3
(here / "odd").mkdir()
(here / "odd" / "closed").mkdir()
(here / "odd" / "closed" / "file").write_text("x")
(here / "odd" / "closed").chmod(0)
removal.remove(mine, other, here / "odd", here / "not-there")
assert sorted(os.listdir(here)) == ["bundle", "ws"], os.listdir(here)
print("right")
"""


@pytest.fixture
def anybody_s() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wtb-nobody-") as directory:
        if os.geteuid() == 0:
            os.chown(directory, 65534, 65534)
        yield Path(directory)


def test_without_root_s_rights_hard_links_are_made_guarded_and_healed(anybody_s: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(anybody_s)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.stdout == "right\n", run.stderr


def test_a_copy_has_the_bytes_whether_or_not_blocks_are_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_000))
    inputs.clone(source, tmp_path / "by the kernel")

    def refuse(*args: object) -> int:
        raise OSError(errno.EXDEV, "not between these")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    inputs.clone(source, tmp_path / "by hand")
    assert source.read_bytes() == (tmp_path / "by the kernel").read_bytes()
    assert source.read_bytes() == (tmp_path / "by hand").read_bytes()
    assert stat.S_ISREG((tmp_path / "by hand").stat().st_mode)
