"""Files by the SDK, sync and async alike: pages of one checkpoint, and downloads that stay inside."""

import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.unit.sdk_server import Both, Cut, Reply, Server, failed
from wtb_ray import errors
from wtb_ray.model import digest


def entry(path: str, content: bytes | None = b"x", **more: Any) -> dict[str, Any]:
    kind = {"kind": "dir", "size": 0, "mode": 0o755}
    if content is not None:
        kind = {"kind": "file", "size": len(content), "mode": 0o640, "digest": digest(content)}
    return {"path": path, **kind, **more}


def link(path: str, target: str) -> dict[str, Any]:
    return {"path": path, "kind": "link", "size": 0, "mode": 0o777, "target": target}


def page(*items: dict[str, Any], next: str | None = None) -> dict[str, Any]:
    return {"items": list(items), "next": next, "execution_id": "e1", "checkpoint_id": "c7"}


def answer(content: bytes) -> httpx.Response:
    return httpx.Response(200, content=content, headers={"ETag": f'"{digest(content)}"'})


async def test_all_pages_are_of_the_checkpoint_of_the_first(server: Server, bench: Both) -> None:
    server.on("GET /executions/e1/files", page(entry("a"), next="n"), page(entry("b")))
    assert [found.path for found in await bench.files("e1", prefix="x")] == ["a", "b"]
    first, second = [dict(r.url.params) for r in server.requests]
    assert first == {"limit": "500", "prefix": "x"}
    assert second == {"limit": "500", "prefix": "x", "after": "n", "checkpoint": "c7"}


async def test_a_file_is_read(server: Server, bench: Both) -> None:
    server.on("GET /executions/e1/files/out/a b?#%.txt", answer(b"hello"))
    assert await bench.read_file("e1", "out/a b?#%.txt", "c1") == b"hello"
    (request,) = server.requests
    assert (
        request.url.raw_path == b"/api/v1/executions/e1/files/out/a%20b%3F%23%25.txt?checkpoint=c1"
    )


async def test_bytes_that_are_not_the_files_are_refused(server: Server, bench: Both) -> None:
    other = httpx.Response(200, content=b"bye", headers={"ETag": f'"{digest(b"hello")}"'})
    server.on("GET /executions/e1/files/a", other)
    with pytest.raises(errors.ObjectCorrupt, match="a: received"):
        await bench.read_file("e1", "a")


@pytest.mark.parametrize("path", ["", "..", "a/../b", "./a", "/a", "a//b"])
async def test_a_path_that_no_file_can_have_is_not_asked_for(
    server: Server, bench: Both, path: str
) -> None:
    with pytest.raises(errors.UnknownFile):
        await bench.read_file("e1", path)
    assert server.requests == []


async def test_a_folder_is_downloaded_whole(server: Server, bench: Both, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.txt").write_bytes(b"older")
    items = [
        link("latest", "out/a.txt"),
        entry("none", None),
        entry("out", None),
        entry("out/a.txt", b"new"),
    ]
    server.on("GET /executions/e1/files", page(*items))
    server.on("GET /executions/e1/files/out/a.txt", answer(b"new"))
    made = await bench.download_files("e1", tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in made] == [
        "none", "out", "out/a.txt", "latest",
    ]  # fmt: skip
    assert (tmp_path / "out/a.txt").read_bytes() == b"new"
    assert (tmp_path / "out/a.txt").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "latest").read_bytes() == b"new"
    assert (tmp_path / "none").is_dir()
    assert server.requests[1].url.params["checkpoint"] == "c7"
    assert sorted(os.listdir(tmp_path)) == ["latest", "none", "out"]
    assert os.listdir(tmp_path / "out") == ["a.txt"]


async def test_a_download_that_is_cut_begins_again(
    server: Server, bench: Both, tmp_path: Path
) -> None:
    content = b"0123456789" * 10
    server.on("GET /executions/e1/files", page(entry("a", content)))
    server.on(
        "GET /executions/e1/files/a",
        httpx.Response(200, stream=Cut(content[:50])),
        httpx.ConnectError("refused"),
        httpx.Response(503, text="replica is gone"),
        answer(content),
    )
    await bench.download_files("e1", tmp_path / "new")
    assert (tmp_path / "new/a").read_bytes() == content
    assert os.listdir(tmp_path / "new") == ["a"]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (answer(b"other"), errors.ObjectCorrupt),
        (failed(500, "object_corrupt"), errors.ObjectCorrupt),
        (failed(404, "unknown_file"), errors.UnknownFile),
    ],
)
async def test_a_failed_download_leaves_what_was_there(
    server: Server, bench: Both, tmp_path: Path, reply: Reply, kind: type[errors.WTBError]
) -> None:
    (tmp_path / "a").write_bytes(b"older")
    server.on("GET /executions/e1/files", page(entry("a", b"new")))
    server.on("GET /executions/e1/files/a", reply)
    with pytest.raises(kind):
        await bench.download_files("e1", tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"older"}


@pytest.mark.parametrize(
    "bad",
    [
        entry("../a"),
        entry("/etc/a"),
        entry("b/../../a"),
        entry(""),
        entry("away/a"),
        entry("away/new", None),
        link("a", "/etc/passwd"),
        link("a", "../a"),
        link("b/a", "../../a"),
        link("away/a", "b"),
    ],
)
async def test_nothing_is_written_outside_of_the_folder(
    server: Server, bench: Both, tmp_path: Path, bad: dict[str, Any]
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/away").symlink_to(tmp_path / "outside")
    server.on("GET /executions/e1/files", page(bad))
    with pytest.raises(errors.Refused, match="out of the folder"):
        await bench.download_files("e1", tmp_path / "folder")
    assert os.listdir(tmp_path / "outside") == []
    assert [path for path in tmp_path.rglob("*") if path.name in ("a", "new")] == []
    assert len(server.requests) == 1


async def test_a_folder_that_is_a_link_itself_is_the_users_wish(
    server: Server, bench: Both, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    server.on("GET /executions/e1/files", page(entry("b/a"), link("l", "b/a")))
    server.on("GET /executions/e1/files/b/a", answer(b"x"))
    await bench.download_files("e1", str(tmp_path / "folder"))
    assert (tmp_path / "real/l").read_bytes() == b"x"


async def test_a_link_of_the_tree_is_replaced_not_followed(
    server: Server, bench: Both, tmp_path: Path
) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    server.on("GET /executions/e1/files", page(entry("a")))
    server.on("GET /executions/e1/files/a", answer(b"x"))
    await bench.download_files("e1", tmp_path)
    assert not (tmp_path / "a").is_symlink()
    assert not (tmp_path / "b").exists()


async def test_changes_are_read_to_their_end(server: Server, bench: Both) -> None:
    def part(path: str, next: str | None) -> dict[str, Any]:
        return {
            "items": [{"path": path, "change": "added", "after": entry(path), "diff": "+x"}],
            "next": next,
            "from_execution": "e1",
            "from_checkpoint": "c6",
            "to_execution": "e2",
            "to_checkpoint": "c7",
        }

    server.on("GET /executions/e1/diff", part("a", "n"), part("b", None))
    found = await bench.diff_files("e1", other="e2", text=True)
    assert [(change.path, change.change, change.diff) for change in found] == [
        ("a", "added", "+x"),
        ("b", "added", "+x"),
    ]
    first, second = [dict(r.url.params) for r in server.requests]
    assert first == {"limit": "200", "execution": "e2", "text": "true"}
    assert second == {**first, "after": "n", "from": "c6", "to": "c7"}


async def test_the_trash_is_listed_and_restored(server: Server, bench: Both) -> None:
    thrown = {
        "restore_id": 3,
        "entry": entry("a"),
        "reason": "restart",
        "displaced_at": "2026-01-01",
    }
    server.on("GET /executions/e1/trash", {"items": [thrown], "next": None})
    (found,) = await bench.trash("e1")
    assert (found.restore_id, found.entry.path) == (3, "a")
    back = {
        "execution_id": "e1",
        "checkpoint_id": "c7",
        "restore_id": 3,
        "paths": ["a"],
        "manifest": "m",
    }
    server.on("POST /executions/e1/trash/restore", back)
    assert (await bench.restore_trash("e1", 3)).paths == ["a"]
    await bench.restore_trash("e1", 3, ["a"])
    assert server.body(1) == {"restore_id": 3, "paths": None}
    assert server.body(2) == {"restore_id": 3, "paths": ["a"]}
    assert server.requests[1].headers["idempotency-key"]
    with pytest.raises(errors.InvalidRequest, match="paths"):
        await bench.restore_trash("e1", 3, [])
