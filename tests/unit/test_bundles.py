"""What the bench accepts as a bundle, and what an accepted one becomes."""

import copy
import hashlib
import importlib
import io
import os
import stat
import sys
import tracemalloc
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wtb_ray import bundles, errors
from wtb_ray.model import BUNDLE_MAX_FILES
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
    "name",
    ["../a.py", "/a.py", "a/../../b.py", "a//b.py", "./a.py", "C:/a.py", "a\\b.py", "a\nb.py"],
)
def test_paths_that_leave_the_folder_are_refused(name: str) -> None:
    # A name with a backslash cannot be made with ZipInfo on every system, so it is patched in.
    placeholder = name.replace("\\", "!")
    data = archive({placeholder: ""}).replace(placeholder.encode(), name.encode())
    assert rejected(data) == "path"


@pytest.mark.parametrize("name", ["ü ñ/日本.py", "10:00 log.txt", "a b.py", "..a", "x" * 255])
def test_unusual_names_are_unpacked_as_they_are(tmp_path: Path, name: str) -> None:
    data = archive({name: "x = 1"})
    assert (bundles.unpack(data, sha(data), tmp_path) / name).read_text() == "x = 1"


@pytest.mark.parametrize("name", ["x" * 256, "ü" * 128, "/".join(["folder"] * 200)])
def test_a_path_that_no_disk_takes_is_refused_before_it_is_tried(name: str) -> None:
    assert rejected(archive({name: ""})) == "path"


def test_names_that_differ_in_case_are_two_files(tmp_path: Path) -> None:
    data = archive({"Graph.py": "1", "graph.py": "2"})
    folder = bundles.unpack(data, sha(data), tmp_path)
    assert [(folder / n).read_text() for n in ("Graph.py", "graph.py")] == ["1", "2"]


def test_links_are_refused() -> None:
    assert rejected(archive({"l": "/etc/passwd"}, external_attr=0o120777 << 16)) == "link"


def test_devices_are_refused() -> None:
    assert rejected(archive({"d": ""}, external_attr=0o020666 << 16)) == "link"


@pytest.mark.parametrize(
    "files", [{"a": "", "a/b": ""}, {"x/a/b/c": "", "x/a": ""}, {"a": "", "a/": ""}]
)
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


def test_more_folders_than_a_bundle_may_have_are_refused() -> None:
    deep = "/".join("abcdefghi")
    assert rejected(archive({f"{i}/{deep}/f": "" for i in range(1001)})) == "too_many_files"


def lying(data: bytes, said: int, found: int) -> bytes:
    """The archive with another number wherever it says this one."""
    return data.replace(said.to_bytes(4, "little"), found.to_bytes(4, "little"))


def test_a_bomb_that_calls_itself_small_is_refused() -> None:
    size = 2 << 20
    bomb = lying(archive({"a": "0" * size}), size, 10)
    assert rejected(bomb, max_mb=1) == "not_a_zip"  # its checksum is that of what it really has


def test_a_bomb_that_forges_its_checksum_too_gives_no_more_than_it_says(tmp_path: Path) -> None:
    text = "0" * (2 << 20)
    bomb = lying(archive({"a": text}), len(text), 10)
    bomb = lying(bomb, zlib.crc32(text.encode()), zlib.crc32(text[:10].encode()))
    folder = bundles.unpack(bomb, sha(bomb), tmp_path, max_mb=1)
    assert (folder / "a").read_text() == text[:10]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bomb_that_is_unpacked_in_one_piece_is_refused_unread(method: int) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z:
        z.writestr("a", b"0" * (8 << 20))
    tracemalloc.start()
    try:
        assert rejected(out.getvalue()) == "compression"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_archives_in_an_archive_stay_closed(tmp_path: Path) -> None:
    inner = archive({f"{i}": "0" * (700 << 10) for i in range(50)})
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        z.writestr("wheels/a.zip", inner)
    folder = bundles.unpack(out.getvalue(), sha(out.getvalue()), tmp_path, max_mb=1)
    assert (folder / "wheels/a.zip").read_bytes() == inner


def test_files_that_share_their_bytes_count_each(tmp_path: Path) -> None:
    """Every entry points to one content, so that the archive is small and what it holds is not."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        z.writestr("a", "0" * (300 << 10))
        for name in "bcde":
            z.filelist.append(copy.copy(z.filelist[0]))
            z.filelist[-1].filename = name
            z.NameToInfo[name] = z.filelist[-1]
    with pytest.raises(errors.BundleRejected):
        bundles.unpack(out.getvalue(), sha(out.getvalue()), tmp_path, max_mb=1)
    assert list(tmp_path.iterdir()) == []


def test_entries_are_counted_before_they_are_read() -> None:
    """The number that an archive says it has is not asked; its list of entries is long enough."""
    entry = archive({"f": ""})
    start = entry.index(b"PK\1\2")
    one, end = entry[start:-22], bytearray(entry[-22:])
    end[12:16] = (len(one) * 200_000).to_bytes(4, "little")
    data = entry[:start] + one * 200_000 + bytes(end)
    tracemalloc.start()
    try:
        assert rejected(data) == "too_many_files"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_an_archive_over_the_limit_is_refused_unread() -> None:
    assert rejected(os.urandom(2 << 20), max_mb=1) == "too_large"


def commented() -> bytes:
    out = io.BytesIO(archive({"a": ""}))
    with zipfile.ZipFile(out, "a") as z:
        z.comment = b"its end is somewhere else"
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"PK nothing", archive({"a": "text"})[:-30], commented(), archive({"a": ""}) + b"x"],
)
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


@pytest.mark.parametrize("line", ["../elsewhere", "/etc", "lib/", ""])
def test_markers_that_leave_the_folder_are_refused(line: str) -> None:
    assert rejected(archive({"lib/ray.py": "", ".wtb-paths": f"{line}\n"})) == "path"


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


@pytest.mark.usefixtures("clean_imports")
def test_a_script_without_a_suffix_is_imported_too(tmp_path: Path) -> None:
    (tmp_path / "run-demo").write_text("#!/usr/bin/env python\ndef factory(): return 7\n")
    data = pack(tmp_path, main="run-demo")
    bundles.activate(bundles.unpack(data, sha(data), tmp_path / "node"))
    assert importlib.import_module("__wtb_main__").factory() == 7


def test_many_that_unpack_one_bundle_at_once_see_it_whole(tmp_path: Path) -> None:
    data = archive({f"m{i}.py": f"x = {i}" for i in range(40)})

    def count(_: int) -> int:
        return len(list(bundles.unpack(data, sha(data), tmp_path).iterdir()))

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(count, range(16))) == {40}
    assert [p.name for p in tmp_path.iterdir()] == [sha(data)]


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
