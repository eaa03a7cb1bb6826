"""What the bench accepts as a bundle, and what an accepted one becomes."""

import hashlib
import importlib
import io
import os
import stat
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from wtb_ray import bundles, errors
from wtb_ray.model import BUNDLE_MAX_FILES, RUNNER_ENV
from wtb_ray.objects import ObjectStore
from wtb_ray.sdk.bundle import pack


def archive(files: dict[str, str], **info: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name)
            for field, value in info.items():
                setattr(entry, field, value)
            z.writestr(entry, text, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def rejected(data: bytes, max_mb: int = 64) -> str:
    with pytest.raises(errors.BundleRejected) as e:
        bundles.check(data, sha(data), max_mb)
    return str(e.value.details["reason"])


def test_a_bundle_is_unpacked_with_its_modes(tmp_path: Path) -> None:
    data = archive({"pkg/graph.py": "x = 1", "run.sh": "true"}, external_attr=0o100755 << 16)
    folder = bundles.unpack(data, sha(data), tmp_path)
    assert folder == tmp_path / sha(data)
    assert (folder / "pkg/graph.py").read_text() == "x = 1"
    assert stat.S_IMODE((folder / "run.sh").stat().st_mode) == 0o755


def test_a_second_unpack_finds_the_first(tmp_path: Path) -> None:
    data = archive({"a.py": ""})
    first = bundles.unpack(data, sha(data), tmp_path)
    (first / "seen").touch()
    assert (bundles.unpack(data, sha(data), tmp_path) / "seen").exists()


def test_a_rejected_bundle_leaves_nothing(tmp_path: Path) -> None:
    data = archive({"a.py": "", "../b.py": ""})
    with pytest.raises(errors.BundleRejected):
        bundles.unpack(data, sha(data), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_bytes_than_the_digest_says_are_refused() -> None:
    with pytest.raises(errors.BundleRejected, match="has the digest"):
        bundles.check(archive({"a.py": ""}), "0" * 64)


@pytest.mark.parametrize("digest", ["..", "../x", "A" * 64, ""])
def test_a_digest_is_never_a_path(tmp_path: Path, digest: str) -> None:
    with pytest.raises(errors.InvalidRequest):
        bundles.unpack(b"", digest, tmp_path / "x")


@pytest.mark.parametrize(
    "name", ["../a.py", "/a.py", "a/../../b.py", "a//b.py", "./a.py", "C:/a.py", "a\\b.py"]
)
def test_paths_that_leave_the_folder_are_refused(name: str) -> None:
    # A name with a backslash cannot be made with ZipInfo on every system, so it is patched in.
    placeholder = name.replace("\\", "!")
    data = archive({placeholder: ""}).replace(placeholder.encode(), name.encode())
    assert rejected(data) == "path"


def test_links_are_refused() -> None:
    assert rejected(archive({"l": "/etc/passwd"}, external_attr=0o120777 << 16)) == "link"


def test_devices_are_refused() -> None:
    assert rejected(archive({"d": ""}, external_attr=0o020666 << 16)) == "link"


@pytest.mark.parametrize("files", [{"a": "", "a/b": ""}, {"x/a/b/c": "", "x/a": ""}])
def test_a_path_that_is_file_and_folder_is_refused(files: dict[str, str]) -> None:
    assert rejected(archive(files)) == "duplicate_path"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_files_of_one_name_are_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        z.writestr("a.py", "1")
        z.writestr("a.py", "2")
    assert rejected(out.getvalue()) == "duplicate_path"


def test_too_many_files_are_refused() -> None:
    assert rejected(archive({f"f{i}": "" for i in range(BUNDLE_MAX_FILES + 1)})) == "too_many_files"


def test_a_zip_bomb_is_refused_by_what_it_unpacks_to() -> None:
    bomb = archive({"a": "0" * (700 << 10), "b": "0" * (700 << 10)})
    assert len(bomb) < 10_000
    assert rejected(bomb, max_mb=1) == "too_large"


def test_a_bomb_that_lies_about_its_size_is_refused() -> None:
    bomb = archive({"a": "0" * (2 << 20)})
    lying = bomb.replace((2 << 20).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert rejected(lying, max_mb=1) in ("too_large", "not_a_zip")


def test_an_archive_over_the_limit_is_refused_unread() -> None:
    assert rejected(os.urandom(2 << 20), max_mb=1) == "too_large"


@pytest.mark.parametrize("data", [b"", b"PK nothing", archive({"a": "text"})[:-30]])
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    assert rejected(data) == "not_a_zip"


def test_a_damaged_file_is_refused() -> None:
    data = bytearray(archive({"a": os.urandom(100).hex()}))
    data[60] ^= 0xFF
    assert rejected(bytes(data)) == "not_a_zip"


@pytest.mark.parametrize(
    "name",
    ["ray/__init__.py", "langgraph.py", "wtb_ray/x.py", "src/ray.py", "ray.cpython-311-x86.so"],
)
def test_names_that_would_hide_the_bench_are_refused(name: str) -> None:
    assert rejected(archive({name: ""})) == "reserved_name"


@pytest.mark.parametrize("marker", [{".wtb-paths": "lib\n"}, {".wtb-main": "lib/run.py\n"}])
def test_they_are_refused_in_every_folder_that_is_imported_from(marker: dict[str, str]) -> None:
    assert rejected(archive({"lib/ray/__init__.py": "", **marker})) == "reserved_name"


def test_the_same_names_deeper_are_fine() -> None:
    data = archive({"pkg/ray.py": "", "langgraph.json": "{}", "rays.py": ""})
    bundles.check(data, sha(data))


def test_markers_that_leave_the_folder_are_refused() -> None:
    assert rejected(archive({"a.py": "", ".wtb-paths": "../elsewhere\n"})) == "path"


@pytest.fixture
def clean_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setenv(RUNNER_ENV, "")
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.usefixtures("clean_imports")
def test_an_activated_bundle_is_imported_from_root_src_and_its_own_folders(tmp_path: Path) -> None:
    for name in ("in_root.py", "src/in_src.py", "svc/in_svc.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"name = {name!r}")
    data = pack(tmp_path, paths=["svc"])
    folder = bundles.unpack(data, sha(data), tmp_path / "node")
    bundles.activate(folder)
    bundles.activate(folder)
    names = [importlib.import_module(m).name for m in ("in_root", "in_src", "in_svc")]
    assert names == ["in_root.py", "src/in_src.py", "svc/in_svc.py"]
    assert sys.path.count(str(folder)) == 1


@pytest.mark.usefixtures("clean_imports")
def test_a_script_is_imported_as_wtb_main_and_its_guard_holds(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/helper.py").write_text("value = 7")
    (tmp_path / "scripts/run.py").write_text(
        "import os, helper\n"
        "def factory(): return helper.value\n"
        "in_runner = os.environ['WTB_IN_RUNNER']\n"
        "if __name__ == '__main__': raise SystemExit('ran')\n"
    )
    data = pack(tmp_path, main="scripts/run.py")
    bundles.activate(bundles.unpack(data, sha(data), tmp_path / "node"))
    script = importlib.import_module("__wtb_main__")
    assert script.factory() == 7
    assert script.factory.__module__ == "__wtb_main__"
    assert script.in_runner == "1"


async def test_a_bundle_is_fetched_from_the_store_once(tmp_path: Path) -> None:
    data = archive({"a.py": "x = 1"})
    async with ObjectStore(f"file://{tmp_path}/objects") as objects:
        digest = await objects.put(data)
        first = await bundles.fetch(objects, digest, tmp_path / "bundles")
        (tmp_path / "objects" / "blobs").rename(tmp_path / "gone")
        assert await bundles.fetch(objects, digest, tmp_path / "bundles") == first


async def test_a_bundle_that_was_never_uploaded_is_named(tmp_path: Path) -> None:
    async with ObjectStore(f"file://{tmp_path}/objects") as objects:
        with pytest.raises(errors.UnknownBundle, match="0" * 64):
            await bundles.fetch(objects, "0" * 64, tmp_path / "bundles")
