"""The files of checkpoints by HTTP: listed, read, compared, and brought back from the trash."""

import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.files_bench import Link, Restored, stepped, tree
from tests.integration.http_bench import GRAPH, SPEC, HttpBench, serving
from tests.integration.store_bench import StoreBench
from wtb_ray import manifests
from wtb_ray.manifests import EMPTY, Entry
from wtb_ray.model import Execution, FileTrackingConfig, ProjectSpec, digest
from wtb_ray.serve import http_files

BEFORE: dict[str, bytes | Link | None] = {
    "notes.txt": b"one\ntwo\n",
    "output/plot.png": b"\x89PNG\0",
    "output/report.md": b"# A",
    "old/thing.txt": b"gone soon\n",
    "same/big.bin": bytes(3000),
}
AFTER: dict[str, bytes | Link | None] = {
    "empty": None,
    "latest": Link("output/report.md"),
    "notes.txt": b"one\nthree\n",
    "output/plot.png": b"\x89PNG\0\1",
    "output/report.md": b"# A\n",
    "output/über.txt": b"new\n",
    "same/big.bin": bytes(3000),
}


@pytest_asyncio.fixture
async def http(url: str, tmp_path: Path) -> AsyncIterator[HttpBench]:
    async with serving(url, tmp_path) as bench:
        yield bench


@pytest_asyncio.fixture
async def rows(http: HttpBench) -> StoreBench:
    spec = ProjectSpec(**{**SPEC, "file_tracking": FileTrackingConfig()})
    version = await http.store.projects.register(spec, GRAPH, {}, actor="me")
    return StoreBench(http.context.db, version)


@pytest_asyncio.fixture
async def made(http: HttpBench, rows: StoreBench) -> Execution:
    """A paused execution with files BEFORE at c0, and AFTER at c1."""
    trees = [await tree(http.context.objects, files) for files in (BEFORE, AFTER)]
    return await stepped(rows, [None, *trees])


def paths(page: Any) -> list[str]:
    return [item["path"] for item in page["items"]]


async def test_files_are_listed_by_path(http: HttpBench, made: Execution) -> None:
    page = await http.get(f"/executions/{made.id}/files")
    assert paths(page) == [
        "empty", "latest", "notes.txt", "output", "output/plot.png", "output/report.md",
        "output/über.txt", "same", "same/big.bin",
    ]  # fmt: skip
    assert (page["execution_id"], page["checkpoint_id"], page["next"]) == (made.id, "c1", None)
    entries = {item["path"]: item for item in page["items"]}
    assert entries["notes.txt"] == {
        "path": "notes.txt",
        "kind": "file",
        "size": 10,
        "mode": 0o644,
        "digest": digest(b"one\nthree\n"),
        "target": None,
    }
    assert entries["latest"]["target"] == "output/report.md"
    assert (entries["output"]["kind"], entries["output"]["size"]) == ("dir", 14)
    older = await http.get(f"/executions/{made.id}/files", checkpoint="c0", prefix="old")
    assert paths(older) == ["old/thing.txt"]
    assert paths(await http.get(f"/executions/{made.id}/files", prefix="notes.txt")) == [
        "notes.txt"
    ]


async def test_pages_of_files_follow_each_other(http: HttpBench, made: Execution) -> None:
    url = f"/executions/{made.id}/files"
    for prefix, limit in [("", 1), ("", 4), ("output", 2)]:
        whole = await http.get(url, prefix=prefix)
        found: list[Any] = []
        after: dict[str, str] = {}
        while True:
            page = await http.get(url, limit=limit, prefix=prefix, **after)
            assert len(page["items"]) <= limit
            found += page["items"]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        assert found == whole["items"]


async def test_many_directories_are_listed_in_order(http: HttpBench, rows: StoreBench) -> None:
    files: dict[str, bytes | Link | None] = {
        f"d{n:03}/{m}.txt": b"%d" % n for n in range(150) for m in range(2)
    }
    execution = await stepped(rows, [None, await tree(http.context.objects, files)])
    page = await http.get(f"/executions/{execution.id}/files", limit=500)
    assert paths(page) == sorted({*files, *(path.split("/")[0] for path in files)})


async def test_before_anything_was_kept_there_are_no_files(
    http: HttpBench, rows: StoreBench
) -> None:
    new = await rows.execution()
    page = await http.get(f"/executions/{new.id}/files")
    assert (page["items"], page["checkpoint_id"]) == ([], None)
    assert (await http.get(f"/executions/{new.id}/diff"))["items"] == []
    assert (await http.get(f"/executions/{new.id}/trash"))["items"] == []
    response = await http.client.get(f"/api/v1/executions/{new.id}/files/notes.txt")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_file")


async def test_a_file_is_downloaded_as_what_it_is(http: HttpBench, made: Execution) -> None:
    url = f"/api/v1/executions/{made.id}/files"
    response = await http.client.get(f"{url}/output/über.txt")
    assert (response.status_code, response.content) == (200, b"new\n")
    etag = f'"{digest(b"new" + os.linesep.encode())}"'
    assert response.headers["etag"] == etag
    assert response.headers["content-length"] == "4"
    assert response.headers["content-disposition"] == (
        "attachment; filename=\"_ber.txt\"; filename*=UTF-8''%C3%BCber.txt"
    )
    older = await http.client.get(f"{url}/notes.txt", params={"checkpoint": "c0"})
    assert older.content == b"one\ntwo\n"
    for given in (etag, f'"x", W/{etag}', "*"):
        again = await http.client.get(f"{url}/output/über.txt", headers={"If-None-Match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    other = await http.client.get(f"{url}/output/über.txt", headers={"If-None-Match": '"x"'})
    assert other.status_code == 200


async def test_a_large_file_is_streamed_and_leaves_nothing_behind(
    http: HttpBench, rows: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_files, "INLINE", 10)
    monkeypatch.setattr(http_files, "CHUNK", 1000)
    content = os.urandom(4567)
    manifest = await tree(http.context.objects, {"big": content})
    execution = await stepped(rows, [None, manifest])
    response = await http.client.get(f"/api/v1/executions/{execution.id}/files/big")
    assert (response.content, response.headers["content-length"]) == (content, "4567")
    assert response.headers["content-type"] == "application/octet-stream"
    assert list((http.context.settings.data_dir / "tmp").iterdir()) == []


async def test_a_damaged_file_is_never_sent(
    http: HttpBench, made: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"/api/v1/executions/{made.id}/files/output/über.txt"
    sha = digest(b"new\n")
    blob = http.context.settings.data_dir / "objects/blobs" / sha[:2] / sha[2:]
    for inline in (0, 1 << 20):
        monkeypatch.setattr(http_files, "INLINE", inline)
        blob.write_bytes(b"NEW\n")
        response = await http.client.get(url)
        assert (response.status_code, response.json()["error"]["code"]) == (500, "object_corrupt")
        blob.unlink()
        response = await http.client.get(url)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_object")


async def test_no_browser_runs_a_file_in_our_origin(http: HttpBench, rows: StoreBench) -> None:
    names = ("page.html", "image.svg", "script.js")
    manifest = await tree(http.context.objects, dict.fromkeys(names, b"<script>alert(1)</script>"))
    execution = await stepped(rows, [None, manifest])
    for name in names:
        response = await http.client.get(f"/api/v1/executions/{execution.id}/files/{name}")
        assert response.headers["content-type"] == "application/octet-stream"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-disposition"].startswith("attachment;")
        assert "sandbox" in response.headers["content-security-policy"]


async def test_paths_that_are_no_files_lead_nowhere(http: HttpBench, made: Execution) -> None:
    for path, reason in [
        ("nothing", "there is no"),
        ("output", "a directory"),
        ("latest", "a link to output/report.md"),
        ("notes.txt/below", "there is no"),
        ("", "a directory"),
        ("%2E%2E/%2E%2E/etc/passwd", "there is no"),
        ("output/%2E%2E/notes.txt", "there is no"),
        ("/etc/passwd", "there is no"),
        ("/notes.txt", "there is no file"),
        ("..%2F..%2Fetc%2Fpasswd", "there is no"),
    ]:
        response = await http.client.get(f"/api/v1/executions/{made.id}/files/{path}")
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (404, "unknown_file"), path
        assert reason in error["message"]


async def test_names_that_are_no_utf8_are_shown_and_found(
    http: HttpBench, rows: StoreBench
) -> None:
    objects = http.context.objects
    name = os.fsdecode(b'a\xff"b.txt')
    entry = Entry("", "file", await objects.put(b"x"), 1, 0o644)
    manifest = await manifests.replaced(objects, None, {f"d/{name}": entry, "z": entry})
    execution = await stepped(rows, [None, manifest])
    page = await http.get(f"/executions/{execution.id}/files", limit=2)
    assert paths(page) == ["d", 'd/a\\xff"b.txt']
    rest = await http.get(f"/executions/{execution.id}/files", after=page["next"])
    assert paths(rest) == ["z"]
    response = await http.client.get(f"/api/v1/executions/{execution.id}/files/d/a%5Cxff%22b.txt")
    assert response.content == b"x"
    assert 'filename="a_xff_b.txt"' in response.headers["content-disposition"]


async def test_the_last_step_is_compared_with_the_one_before(
    http: HttpBench, made: Execution
) -> None:
    page = await http.get(f"/executions/{made.id}/diff")
    assert [(item["path"], item["change"]) for item in page["items"]] == [
        ("empty", "added"),
        ("latest", "added"),
        ("notes.txt", "changed"),
        ("old", "removed"),
        ("old/thing.txt", "removed"),
        ("output/plot.png", "changed"),
        ("output/report.md", "changed"),
        ("output/über.txt", "added"),
    ]
    assert (page["from_checkpoint"], page["to_checkpoint"]) == ("c0", "c1")
    notes = page["items"][2]
    assert (notes["before"]["size"], notes["after"]["size"], notes["diff"]) == (8, 10, None)
    again = await http.get(f"/executions/{made.id}/diff", **{"from": "c0", "to": "c1"})
    assert again == page
    back = await http.get(f"/executions/{made.id}/diff", **{"from": "c1", "to": "c0"})
    assert back["items"][0]["change"] == "removed"
    first = await http.get(f"/executions/{made.id}/diff", to="c0")
    assert (first["from_checkpoint"], len(first["items"])) == (None, 8)


async def test_texts_are_compared_line_by_line(http: HttpBench, made: Execution) -> None:
    page = await http.get(f"/executions/{made.id}/diff", text="true")
    diffs = {item["path"]: item["diff"] for item in page["items"]}
    assert diffs["notes.txt"] == (
        "--- a/notes.txt\n+++ b/notes.txt\n@@ -1,2 +1,2 @@\n one\n-two\n+three\n"
    )
    assert diffs["old/thing.txt"].startswith("--- a/old/thing.txt\n+++ /dev/null\n")
    assert diffs["output/report.md"].endswith("-# A\n\\ No newline at end of file\n+# A\n")
    assert diffs["output/plot.png"] is None
    assert diffs["latest"] is None


async def test_a_text_that_is_too_long_is_not_compared(http: HttpBench, rows: StoreBench) -> None:
    objects = http.context.objects
    old = await tree(objects, {"many": b"x\n" * 2001, "wide": b"x" * 140_000, "fine": b"x\n"})
    new = await tree(objects, {"many": b"y\n" * 2001, "wide": b"y" * 140_000, "fine": b"y\n"})
    execution = await stepped(rows, [None, old, new])
    page = await http.get(f"/executions/{execution.id}/diff", text="true")
    assert {item["path"]: item["diff"] is not None for item in page["items"]} == {
        "fine": True,
        "many": False,
        "wide": False,
    }


async def test_two_executions_are_compared(
    http: HttpBench, rows: StoreBench, made: Execution
) -> None:
    other = await stepped(
        rows, [None, await tree(http.context.objects, {**AFTER, "notes.txt": b"other\n"})]
    )
    page = await http.get(f"/executions/{made.id}/diff", execution=other.id)
    assert [(item["path"], item["change"]) for item in page["items"]] == [("notes.txt", "changed")]
    assert (page["from_execution"], page["from_checkpoint"]) == (made.id, "c1")
    assert (page["to_execution"], page["to_checkpoint"]) == (other.id, "c0")
    page = await http.get(
        f"/executions/{made.id}/diff", execution=other.id, **{"from": "c0", "to": "c0"}
    )
    assert len(page["items"]) == 8


async def test_pages_of_changes_follow_each_other(http: HttpBench, made: Execution) -> None:
    whole = await http.get(f"/executions/{made.id}/diff", text="true")
    first = await http.get(f"/executions/{made.id}/diff", text="true", limit=3)
    rest = await http.get(f"/executions/{made.id}/diff", text="true", after=first["next"])
    assert first["items"] + rest["items"] == whole["items"]


async def restored(
    http: HttpBench, rows: StoreBench, made: Execution, before: str, after: str = EMPTY
) -> int:
    """A restore that displaced things, recorded as its runner would, and then rest again."""
    await rows.put(made.id, "RUNNING")
    ids = await http.store.files.record_restore(
        made.id, 0, Restored(manifest=after, displaced=before), "restart", actor="r1"
    )
    await rows.put(made.id, "PAUSED")
    return ids[0]


async def test_what_restores_displaced_is_listed(
    http: HttpBench, rows: StoreBench, made: Execution
) -> None:
    before, after = [await tree(http.context.objects, files) for files in (BEFORE, AFTER)]
    first = await restored(http, rows, made, before, after)
    second = await restored(http, rows, made, before)
    page = await http.get(f"/executions/{made.id}/trash")
    assert [(item["restore_id"], item["entry"]["path"]) for item in page["items"]] == [
        *((second, path) for path in (
            "notes.txt", "old", "old/thing.txt", "output", "output/plot.png", "output/report.md",
            "same", "same/big.bin")),
        *((first, path) for path in (
            "notes.txt", "old", "old/thing.txt", "output/plot.png", "output/report.md")),
    ]  # fmt: skip
    assert page["items"][0]["entry"]["digest"] == digest(b"one\ntwo\n")
    assert (page["items"][0]["reason"], page["items"][0]["displaced_at"]) != (None, None)
    found: list[Any] = []
    where: dict[str, str] = {}
    while True:
        part = await http.get(f"/executions/{made.id}/trash", limit=3, **where)
        found += part["items"]
        if part["next"] is None:
            break
        where = {"after": part["next"]}
    assert found == page["items"]


async def test_files_come_back_from_the_trash(
    http: HttpBench, rows: StoreBench, made: Execution
) -> None:
    before, after = [await tree(http.context.objects, files) for files in (BEFORE, AFTER)]
    id = await restored(http, rows, made, before, after)
    url = f"/executions/{made.id}/trash/restore"
    body = {"restore_id": id, "paths": ["old", "notes.txt"]}
    answer = await http.post(url, body, 200, {"X-Actor": "ann"})
    assert (answer["paths"], answer["checkpoint_id"]) == (
        ["notes.txt", "old", "old/thing.txt"],
        "c1",
    )
    now = await http.get(f"/executions/{made.id}/files")
    assert {"old/thing.txt", "output/über.txt"} <= set(paths(now))
    response = await http.client.get(f"/api/v1/executions/{made.id}/files/notes.txt")
    assert response.content == b"one\ntwo\n"
    (event,) = await rows.events(types=["trash.restored"])
    assert (event.actor, event.payload["paths"]) == ("http:ann", answer["paths"])
    assert event.payload["manifest"] == answer["manifest"]
    assert await http.post(url, body, 200) == answer, "what is there already is left as it is"
    assert len(await rows.events(types=["trash.restored"])) == 1
    assert len((await http.get(f"/executions/{made.id}/trash"))["items"]) == 5


async def test_what_was_made_since_stays_beside_what_comes_back(
    http: HttpBench, rows: StoreBench
) -> None:
    objects = http.context.objects
    old: dict[str, bytes | Link | None] = {
        "d/a": b"a",
        "d/e/f": b"f",
        "x": b"x",
        "gone/deep/g": b"g",
    }
    since: dict[str, bytes | Link | None] = {"d/new": b"n", "x": b"newer"}
    made = await stepped(rows, [None, await tree(objects, since)])
    id = await restored(http, rows, made, await tree(objects, old))
    await http.post(f"/executions/{made.id}/trash/restore", {"restore_id": id}, 200)
    kept = await http.store.files.manifest_at(made.id)
    assert kept == await tree(objects, {**since, **old})


async def test_a_key_restores_once(http: HttpBench, rows: StoreBench, made: Execution) -> None:
    before = await tree(http.context.objects, BEFORE)
    id = await restored(http, rows, made, before)
    url = f"/api/v1/executions/{made.id}/trash/restore"
    key = {"Idempotency-Key": "k1"}
    first = await http.client.post(url, json={"restore_id": id}, headers=key)
    again = await http.client.post(url, json={"restore_id": id}, headers=key)
    assert (first.status_code, again.content) == (200, first.content)
    assert again.headers["Idempotent-Replayed"] == "true"
    other = {"restore_id": id, "paths": ["notes.txt"]}
    refused = await http.client.post(url, json=other, headers=key)
    assert refused.json()["error"]["code"] == "idempotency_conflict"


async def test_what_cannot_come_back_changes_nothing(
    http: HttpBench, rows: StoreBench, made: Execution
) -> None:
    objects = http.context.objects
    lost = b"nobody has this any more"
    before = await tree(objects, {"notes.txt": b"old", "lost": lost, "output": b"a file"})
    id = await restored(http, rows, made, before)
    sha = digest(lost)
    (http.context.settings.data_dir / "objects/blobs" / sha[:2] / sha[2:]).unlink()
    now = await http.store.files.manifest_at(made.id)
    for status, code, field, body in [
        (404, "not_found", "restore_id", {"restore_id": id + 1}),
        (404, "unknown_file", "paths", {"restore_id": id, "paths": ["notes.txt", "zzz"]}),
        (404, "unknown_object", None, {"restore_id": id, "paths": ["lost"]}),
        (409, "conflict", "paths", {"restore_id": id, "paths": ["output"]}),
        (422, "invalid_request", "paths", {"restore_id": id, "paths": []}),
        (422, "invalid_request", "restore_id", {"restore_id": 0}),
        (422, "invalid_request", "restore_id", {}),
    ]:  # fmt: skip
        answer = await http.post(f"/executions/{made.id}/trash/restore", body, status)
        assert answer["error"]["code"] == code, body
        assert answer["error"]["details"].get("field") == field
    await rows.put(made.id, "RUNNING")
    body = {"restore_id": id, "paths": ["notes.txt"]}
    answer = await http.post(f"/executions/{made.id}/trash/restore", body, 409)
    assert answer["error"]["code"] == "invalid_transition"
    assert answer["error"]["details"]["state"] == "RUNNING"
    assert await http.store.files.manifest_at(made.id) == now
    assert await rows.events(types=["trash.restored"]) == []


async def test_bad_reads(http: HttpBench, made: Execution) -> None:
    cursor = base64.urlsafe_b64encode(b"a").decode()
    own, other = f"/executions/{made.id}", "/executions/nope"
    for path, status, code in [
        (f"{other}/files", 404, "unknown_execution"),
        (f"{other}/files/x", 404, "unknown_execution"),
        (f"{other}/diff", 404, "unknown_execution"),
        (f"{other}/trash", 404, "unknown_execution"),
        (f"{own}/diff?execution=nope", 404, "unknown_execution"),
        (f"{own}/files?checkpoint=nope", 404, "unknown_checkpoint"),
        (f"{own}/files/x?checkpoint=nope", 404, "unknown_checkpoint"),
        (f"{own}/diff?from=nope", 404, "unknown_checkpoint"),
        (f"{own}/diff?to=nope", 404, "unknown_checkpoint"),
        (f"{own}/files?checkpoint=c-1", 409, "no_consistent_files"),
        (f"{own}/files?prefix=zzz", 404, "unknown_file"),
        (f"{own}/files?prefix=../..", 404, "unknown_file"),
        (f"{own}/files?after=***", 422, "invalid_request"),
        (f"{own}/files?after=x", 422, "invalid_request"),
        (f"{own}/diff?after=***", 422, "invalid_request"),
        (f"{own}/diff?text=perhaps", 422, "invalid_request"),
        (f"{own}/trash?after={cursor}", 422, "invalid_request"),
        (f"{own}/trash?after=x.{cursor}", 422, "invalid_request"),
        (f"{own}/files?limit=501", 422, "invalid_request"),
    ]:
        response = await http.client.get(f"/api/v1{path}")
        assert (response.status_code, response.json()["error"]["code"]) == (status, code), path
