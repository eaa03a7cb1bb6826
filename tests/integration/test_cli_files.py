"""`wtb exec files|diff|trash` and the SDK against the real HTTP service, over a socket."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import pytest_asyncio
import uvicorn
from typer.testing import CliRunner, Result

from tests.integration.files_bench import Link, Restored, stepped, tree
from tests.integration.http_bench import GRAPH, SPEC, HttpBench, serving
from tests.integration.store_bench import StoreBench
from wtb_ray.cli import app
from wtb_ray.model import Execution, FileTrackingConfig, ProjectSpec
from wtb_ray.sdk import AsyncTestBench

Wtb = Callable[..., Coroutine[Any, Any, Result]]

MODEL = os.urandom(3 << 20)
BEFORE: dict[str, bytes | Link | None] = {"notes.txt": b"one\n", "out/old.bin": bytes(2000)}
AFTER: dict[str, bytes | Link | None] = {
    "notes.txt": b"two\n",
    "out/model.bin": MODEL,
    "out/none": None,
    "out/latest": Link("model.bin"),
    "\x1b[31mred": b"\x1b[31m",
}


class Ready(NamedTuple):
    """A service with an execution that has files, and the command line in front of it."""

    wtb: Wtb
    url: str
    execution: Execution
    restore: int


@pytest_asyncio.fixture
async def http(url: str, tmp_path: Path) -> AsyncIterator[HttpBench]:
    async with serving(url, tmp_path / "data") as bench:
        yield bench


@pytest_asyncio.fixture
async def ready(http: HttpBench) -> AsyncIterator[Ready]:
    spec = ProjectSpec(**{**SPEC, "file_tracking": FileTrackingConfig()})
    version = await http.store.projects.register(spec, GRAPH, {}, actor="me")
    rows = StoreBench(http.context.db, version)
    trees = [await tree(http.context.objects, files) for files in (BEFORE, AFTER)]
    made = await stepped(rows, [None, *trees])
    await rows.put(made.id, "RUNNING")
    restored = Restored(manifest=trees[1], displaced=trees[0])
    (restore,) = await http.store.files.record_restore(made.id, 0, restored, "restart", actor="r1")
    await rows.put(made.id, "PAUSED")
    server = uvicorn.Server(uvicorn.Config(http.app, port=0, log_level="error", lifespan="off"))
    serving_on = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    async def wtb(*words: str) -> Result:
        environment = {"WTB_URL": address, "COLUMNS": "160"}
        invoke = CliRunner().invoke
        return await asyncio.to_thread(invoke, app, ["exec", *words], env=environment)

    yield Ready(wtb, address, made, restore)
    server.should_exit = True
    await serving_on


async def test_files_are_listed_shown_and_downloaded(ready: Ready, tmp_path: Path) -> None:
    wtb, _, made, _ = ready
    listed = (await wtb("files", made.id)).stdout
    for shown in ("notes.txt", "out/none/", "3.0 MiB", "out/latest → model.bin", "\\x1b[31mred"):
        assert shown in listed
    assert "\x1b" not in listed
    page = json.loads((await wtb("files", made.id, "--prefix", "out", "--json")).stdout)
    assert [item["path"] for item in page["items"]] == ["out/latest", "out/model.bin", "out/none"]
    part = await wtb("files", made.id, "--limit", "1")
    assert "more: --after" in part.stdout
    older = await wtb("files", made.id, "notes.txt", "--checkpoint", "c0")
    assert older.stdout == "one\n"

    place = tmp_path / "model"
    written = await wtb("files", made.id, "out/model.bin", "--output", str(place))
    assert (written.exit_code, written.stdout) == (0, "")
    assert place.read_bytes() == MODEL
    await wtb("files", made.id, "notes.txt", "--output", str(tmp_path))
    assert (tmp_path / "notes.txt").read_text() == "two\n"
    folder = tmp_path / "folder"
    written = await wtb("files", made.id, "out", "--output", str(folder))
    assert f"wrote 3 paths below {folder}" in written.stderr
    assert (folder / "out/latest").read_bytes() == MODEL
    assert (folder / "out/none").is_dir()
    assert (await wtb("files", made.id, "--output", str(folder))).exit_code == 0
    assert (folder / "notes.txt").read_text() == "two\n"


async def test_what_cannot_be_shown_is_said_on_one_line(ready: Ready, tmp_path: Path) -> None:
    wtb, _, made, restore = ready
    (tmp_path / "file").write_text("")
    for words, code, reason in [
        (["files", made.id, "nothing"], 1, "(unknown_file)"),
        (["files", "e0"], 1, "(unknown_execution)"),
        (["files", made.id, "--checkpoint", "c-1"], 1, "the nearest with files: c0 (step 0)"),
        (["files", made.id, "out"], 2, "--output FOLDER"),
        (["files", made.id, "out", "--output", "-"], 2, "--output FOLDER"),
        (["files", made.id, "out", "--prefix", "out"], 2, "PATH says it already"),
        (["files", made.id, "out", "-o", str(tmp_path / "file")], 1, "error: Not a directory"),
        (["diff", made.id, "--from", "c9"], 1, "(unknown_checkpoint)"),
        (["trash", made.id, "notes.txt"], 2, "--restore"),
        (["trash", made.id, "--restore", "0"], 2, "--restore"),
        (["trash", made.id, "--restore", "99"], 1, "(not_found)"),
        (["trash", made.id, "--restore", str(restore), "zzz"], 1, "displaced no zzz"),
    ]:
        result = await wtb(*words)
        assert result.exit_code == code, words
        assert reason in result.stderr, words
        assert result.stdout == ""


async def test_changes_are_shown_with_their_lines(ready: Ready) -> None:
    wtb, _, made, _ = ready
    shown = await wtb("diff", made.id)
    assert f"{made.id} at c0" in shown.stdout
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert ["~", "notes.txt", "4", "B"] in rows
    assert ["+", "out/model.bin", "3.0", "MiB"] in rows
    assert ["-", "out/old.bin", "2.0", "KiB"] in rows
    assert "+two" not in shown.stdout
    lines = (await wtb("diff", made.id, "--text")).stdout
    assert "@@ -1 +1 @@\n-one\n+two\n" in lines
    assert "\x1b" not in lines
    page = json.loads((await wtb("diff", made.id, "--from", "c1", "--to", "c0", "--json")).stdout)
    assert (page["from_checkpoint"], len(page["items"])) == ("c1", 6)
    same = await wtb("diff", made.id, "--other", made.id, "--from", "c1", "--to", "c1")
    assert "no changes" in same.stdout


async def test_the_trash_is_listed_and_brought_back(ready: Ready) -> None:
    wtb, _, made, restore = ready
    listed = await wtb("trash", made.id)
    assert "out/old.bin" in listed.stdout
    assert "restart" in listed.stdout
    back = await wtb("trash", made.id, "--restore", str(restore), "out")
    assert back.exit_code == 0, back.stderr
    assert "brought back  1 path" in back.stdout
    both = json.loads((await wtb("files", made.id, "--prefix", "out", "--json")).stdout)
    assert {"out/old.bin", "out/model.bin"} <= {item["path"] for item in both["items"]}
    answer = json.loads((await wtb("trash", made.id, "--restore", str(restore), "--json")).stdout)
    assert answer["paths"] == ["notes.txt", "out/old.bin"]
    assert (await wtb("files", made.id, "notes.txt")).stdout == "one\n"


async def test_the_sdk_does_the_same(ready: Ready, tmp_path: Path) -> None:
    _, url, made, restore = ready
    async with AsyncTestBench(url) as bench:
        assert len(await bench.files(made.id)) == 6
        assert await bench.read_file(made.id, "out/model.bin") == MODEL
        assert await bench.read_file(made.id, "\x1b[31mred") == b"\x1b[31m"
        places = await bench.download_files(made.id, tmp_path / "all", "c0")
        assert [place.name for place in places] == ["notes.txt", "out", "old.bin"]
        changes = await bench.diff_files(made.id, text=True)
        assert [c.diff is not None for c in changes if c.path == "notes.txt"] == [True]
        assert {thrown.entry.path for thrown in await bench.trash(made.id)} == {
            "notes.txt",
            "out/old.bin",
        }
        back = await bench.restore_trash(made.id, restore, ["notes.txt"])
        assert back.checkpoint_id == "c1"
        assert await bench.read_file(made.id, "notes.txt") == b"one\n"
