"""Stored objects by HTTP, SDK and command line; reading them again, and repairing them."""

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
import uvicorn
from typer.testing import CliRunner, Result

from tests.integration.files_bench import point, stepped, tree
from tests.integration.http_bench import GRAPH, SPEC, HttpBench, serving
from tests.integration.store_bench import StoreBench
from wtb_ray import bundles, errors, manifests
from wtb_ray.actors.files import FileTracker
from wtb_ray.cli import app
from wtb_ray.collection import Collector
from wtb_ray.control import Operation
from wtb_ray.events import Cursor
from wtb_ray.model import Execution, FileTrackingConfig, ProjectSpec
from wtb_ray.objects import ObjectStore, key_of
from wtb_ray.sdk import AsyncTestBench
from wtb_ray.sdk.bundle import pack
from wtb_ray.serve.operating import Operating
from wtb_ray.settings import Settings
from wtb_ray.states import CollectionStatus
from wtb_ray.store import Store
from wtb_ray.trees import TrackedTree

Wtb = Callable[..., Coroutine[Any, Any, Result]]


class Ready(NamedTuple):
    """A service with an execution that has files at two checkpoints, and garbage in its store."""

    wtb: Wtb
    url: str
    http: HttpBench
    execution: Execution
    trees: list[str]


@pytest_asyncio.fixture
async def ready(url: str, tmp_path: Path) -> AsyncIterator[Ready]:
    async with serving(url, tmp_path / "data") as http:
        spec = ProjectSpec(**{**SPEC, "file_tracking": FileTrackingConfig()})
        version = await http.store.projects.register(spec, GRAPH, {}, actor="me")
        rows, objects = StoreBench(http.context.db, version), http.context.objects
        trees = [
            await tree(objects, {"a": b"one", "d/b": b"two", "e/b": b"two"}),
            await tree(objects, {"a": b"three"}),
        ]
        made = await stepped(rows, [None, *trees])
        await point(rows, made.thread_id, "c0", 0, trees[0])
        await objects.put_many([b"garbage", b"more of it"])
        server = uvicorn.Server(uvicorn.Config(http.app, port=0, log_level="error", lifespan="off"))
        serving_on = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

        async def wtb(*words: str) -> Result:
            environment = {"WTB_URL": address, "COLUMNS": "160"}
            invoke = CliRunner().invoke
            return await asyncio.to_thread(invoke, app, ["files", *words], env=environment)

        yield Ready(wtb, address, http, made, trees)
        server.should_exit = True
        await serving_on


async def test_commits_are_listed_with_their_weights(ready: Ready) -> None:
    path = f"/executions/{ready.execution.id}/commits"
    page = await ready.http.get(path)
    assert [(i["checkpoint_id"], i["seq"], i["files"], i["bytes"]) for i in page["items"]] == [
        ("c1", -1, 1, 5),
        ("c0", 0, 3, 9),
        ("c0", -1, 3, 9),
    ]
    first = await ready.http.get(path, limit=2)
    assert [*first["items"], *(await ready.http.get(path, after=first["next"]))["items"]] == page[
        "items"
    ]
    assert (await ready.http.get("/files/stats"))["commits"] == 2
    assert (await ready.http.client.get(f"/api/v1{path}?after=x")).status_code == 422
    assert (await ready.http.client.get("/api/v1/executions/e0/commits")).status_code == 404
    shown = await ready.wtb("commits", ready.execution.id)
    assert "interrupt" in shown.stdout
    async with AsyncTestBench(ready.url) as bench:
        assert [one.files for one in await bench.commits(ready.execution.id)] == [1, 3, 3]


async def test_garbage_is_counted_first_and_deleted_when_that_is_wanted(ready: Ready) -> None:
    report = json.loads((await ready.wtb("collect", "--grace", "0", "--json")).stdout)
    assert (report["dry_run"], report["garbage"], report["swept"]) == (True, 2, 0)
    assert "2 objects" in (await ready.wtb("collect", "--grace", "0")).stdout
    young = json.loads((await ready.wtb("collect", "--delete", "--json")).stdout)
    assert (young["young"], young["swept"]) == (2, 0)
    done = await ready.wtb("collect", "--delete", "--grace", "0")
    assert done.exit_code == 0, done.stderr
    assert "2 objects" in done.stdout
    stats = await ready.http.get("/files/stats")
    assert [c["swept"] for c in stats["collections"]] == [2, 0]
    assert stats["generation"] == 2, "nothing was deleted the first time"
    shown = await ready.wtb("stats")
    assert "done" in shown.stdout
    for manifest in ready.trees:
        assert await manifests.objects_of(ready.http.context.objects, manifest)


async def test_a_collection_that_takes_long_goes_on_as_an_operation(
    ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Operating, "wait_s", 0.0)
    response = await ready.http.client.post(
        "/api/v1/files/collect", json={"dry_run": False, "grace_s": 0}
    )
    assert response.status_code == 202
    operation = Operation(**response.json())
    assert (operation.kind, operation.status) == ("collect", "RUNNING")
    async with asyncio.timeout(20):
        while (await ready.http.get(f"/operations/{operation.id}"))["status"] == "RUNNING":
            await asyncio.sleep(0.05)
    seen: list[float] = []
    async with AsyncTestBench(ready.url) as bench:
        report = await bench.collect_files(False, 0.0, lambda now: seen.append(now.done))
    assert report.status is CollectionStatus.DONE


async def test_a_second_collection_is_refused(ready: Ready) -> None:
    await ready.http.store.leases.acquire("collector", "somebody", 60.0)
    answer = await ready.http.post("/files/collect", {"dry_run": False}, 409)
    assert answer["error"]["code"] == "conflict"
    refused = await ready.wtb("collect", "--delete")
    assert (refused.exit_code, "another collection" in refused.stderr) == (1, True)
    assert (await ready.http.post("/files/collect", {"dry_run": True}, 200))["listed"] > 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("collect", {"grace_s": -1}),
        ("collect", {"delete": True}),
        ("rehash", {"sample": 0}),
        ("rehash", {"digests": ["../x"]}),
    ],
)
async def test_requests_that_cannot_be_meant(ready: Ready, path: str, body: Any) -> None:
    await ready.http.post(f"/files/{path}", body, 422)


async def test_an_uploaded_bundle_waits_for_its_project(ready: Ready, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "graph.py").write_text("x = 1")
    archive = pack(tmp_path / "code")
    digest = hashlib.sha256(archive).hexdigest()
    put = await ready.http.client.put(f"/api/v1/bundles/{digest}", content=archive)
    assert put.status_code == 201
    await ready.http.context.holds.close()
    done = await ready.http.post("/files/collect", {"dry_run": False, "grace_s": 0}, 200)
    assert (done["swept"], done["leased"]) == (2, 1)
    assert await ready.http.context.objects.exists(digest)


async def test_a_large_download_holds_its_tree(
    ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wtb_ray.serve.http_files.INLINE", 1)
    found: list[str] = []
    get_file = ObjectStore.get_file

    async def slow(self: ObjectStore, digest: str, target: Path, **more: Any) -> None:
        async with ready.http.context.db.connection() as conn:
            await conn.execute("UPDATE steps SET manifest = NULL")
            await conn.execute("UPDATE restore_points SET manifest = NULL")
        done = await ready.http.post("/files/collect", {"dry_run": False, "grace_s": 0}, 200)
        found.append(done["status"])
        await get_file(self, digest, target, **more)

    monkeypatch.setattr(ObjectStore, "get_file", slow)
    response = await ready.http.client.get(f"/api/v1/executions/{ready.execution.id}/files/a")
    assert (response.status_code, response.content) == (200, b"three")
    assert found == ["DONE"]


# --- damage ---


def damage(objects: ObjectStore, digest: str) -> None:
    Path(f"{objects.url.removeprefix('file://')}/{key_of(digest)}").write_bytes(b"bits rot")


async def test_damage_is_found_by_reading(ready: Ready) -> None:
    objects = ready.http.context.objects
    assert (await ready.wtb("rehash")).exit_code == 0
    digest = await objects.put(b"one")
    damage(objects, digest)
    found = await ready.wtb("rehash", "--json")
    assert found.exit_code == 3
    report = json.loads(found.stdout)
    assert list(report["damaged"]) == [digest]
    assert report["checked"] == len([item async for item in objects.listed()])
    stats = await ready.http.get("/files/stats")
    assert [d["digest"] for d in stats["damaged"]] == [digest]
    assert digest in (await ready.wtb("stats")).stdout
    missing = json.loads((await ready.wtb("rehash", "--digest", "ab" * 32, "--json")).stdout)
    assert missing["damaged"] == {"ab" * 32: "missing"}
    again = json.loads((await ready.wtb("rehash", "--repair", "--json")).stdout)
    assert (list(again["damaged"]), again["repaired"]) == ([digest], {}), "there is no other copy"


async def test_a_sample_reads_so_many(ready: Ready) -> None:
    await ready.http.context.objects.put_many([b"%d" % n for n in range(600)])
    report = json.loads((await ready.wtb("rehash", "--sample", "50", "--json")).stdout)
    assert report["checked"] == 50


class Mending(NamedTuple):
    tracker: FileTracker
    store: Store
    objects: ObjectStore
    mirror: ObjectStore
    settings: Settings


@pytest_asyncio.fixture
async def mending(bench: StoreBench, url: str, tmp_path: Path) -> AsyncIterator[Mending]:
    settings = Settings(
        data_dir=tmp_path / "data", objects_mirror_url=f"file://{tmp_path}/mirror", gc_every_s=0
    )
    tracker = FileTracker(settings, url)
    async with (
        ObjectStore(settings.objects()) as objects,
        ObjectStore(f"file://{tmp_path}/mirror") as mirror,
    ):
        yield Mending(tracker, bench.store, objects, mirror, settings)
    await tracker.close()


async def types(store: Store) -> list[str]:
    return [row.type for row in await store.events.read(Cursor.START, 1000)]


@pytest.mark.parametrize("lost", ["damaged", "missing"])
@pytest.mark.parametrize("size", [10, 9 << 20])
async def test_an_object_is_repaired_from_the_mirror(
    mending: Mending, lost: str, size: int
) -> None:
    data = bytes(size)
    digest = await mending.objects.put(data)
    await mending.mirror.put(data)
    if lost == "damaged":
        damage(mending.objects, digest)
    else:
        await mending.objects.delete([digest])
    assert await mending.tracker.repair(digest) == "mirror"
    assert await mending.objects.get(digest) == data
    assert (await types(mending.store))[-2:] == ["objects.damaged", "objects.repaired"]
    assert await mending.store.collections.all_damaged(10) == []
    assert await mending.tracker.repair(digest) == "nothing"


async def test_a_damaged_mirror_is_no_copy(mending: Mending) -> None:
    digest = await mending.objects.put(b"data")
    await mending.mirror.put(b"data")
    for objects in (mending.objects, mending.mirror):
        damage(objects, digest)
    assert await mending.tracker.repair(digest) is None
    with pytest.raises(errors.ObjectCorrupt):
        await mending.objects.get(digest)
    assert (await types(mending.store))[-1] == "objects.damaged"


async def test_files_and_directories_are_repaired_from_a_workspace(mending: Mending) -> None:
    home = mending.settings.workspaces() / "e1" / "3"
    root = home / "files"
    (root / "d").mkdir(parents=True)
    (root / "d" / "b").write_bytes(b"two")
    (root / "a").write_bytes(b"one")
    kept = TrackedTree(root, FileTrackingConfig(), mending.objects, beside=home)
    manifest = (await kept.snapshot()).manifest
    await kept.save()
    for digest in await manifests.objects_of(mending.objects, manifest):
        damage(mending.objects, digest)
    report = await mending.tracker.rehash(repair=True)
    assert report.damaged.keys() == report.repaired.keys()
    assert len(report.repaired) == 4
    assert set(report.repaired.values()) == {"workspace e1/3"}
    assert len(await manifests.objects_of(mending.objects, manifest)) == 4


async def test_a_file_that_has_changed_since_is_no_copy(mending: Mending) -> None:
    home = mending.settings.workspaces() / "e1" / "3"
    root = home / "files"
    root.mkdir(parents=True)
    (root / "a").write_bytes(b"one")
    kept = TrackedTree(root, FileTrackingConfig(), mending.objects, beside=home)
    await kept.snapshot()
    await kept.save()
    (root / "a").write_bytes(b"two")
    (mending.settings.workspaces() / "e2" / "1").mkdir(parents=True)
    (mending.settings.workspaces() / "e2" / "1" / "stats").write_text("torn")
    digest = await mending.objects.put(b"one")
    damage(mending.objects, digest)
    assert await mending.tracker.repair(digest) is None


async def test_a_bundle_is_repaired_from_its_unpacked_folder(
    mending: Mending, tmp_path: Path
) -> None:
    code = tmp_path / "code"
    (code / "pkg").mkdir(parents=True)
    (code / "run.py").write_text("print()")
    (code / "run.py").chmod(0o755)
    (code / "pkg" / "m.py").write_text("x = 1")
    archive = pack(code, main="run.py", paths=["pkg"])
    digest = await mending.objects.put(archive)
    await bundles.fetch(mending.objects, digest, mending.settings.data_dir / "bundles")
    shutil.rmtree(code)
    damage(mending.objects, digest)
    assert await mending.tracker.repair(digest) == "bundle"
    assert await mending.objects.get(digest) == archive


async def test_only_a_digest_can_be_repaired(mending: Mending) -> None:
    with pytest.raises(errors.InvalidRequest):
        await mending.tracker.repair("../etc")


# --- by itself ---


async def test_the_tracker_collects_when_it_is_due(
    bench: StoreBench, url: str, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path, gc_every_s=0.3, gc_grace_s=0)
    async with ObjectStore(settings.objects()) as objects:
        digest = await objects.put(b"garbage")
        tracker = FileTracker(settings, url)
        async with asyncio.timeout(20):
            while await objects.exists(digest):
                await asyncio.sleep(0.05)
            while len(await bench.store.collections.newest(10)) < 2:
                await asyncio.sleep(0.05)
        await tracker.close()
    assert await tracker.configured()


async def test_the_tracker_goes_on_with_what_was_cut_off(
    bench: StoreBench, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it collects by itself never: writers may wait for it."""
    monkeypatch.setattr("wtb_ray.actors.files.LOOK_S", 0.1)
    settings = Settings(data_dir=tmp_path, gc_every_s=0)

    class Killed(BaseException):
        pass

    async def die(step: str) -> None:
        if step == "doom":
            raise Killed

    async with ObjectStore(settings.objects()) as objects:
        digest = await objects.put(b"garbage")
        with pytest.raises(Killed):
            await Collector(bench.store, objects, actor="a", pause=die).collect(0.0)
        tracker = FileTracker(settings, url)
        async with asyncio.timeout(20):
            while await objects.exists(digest):
                await asyncio.sleep(0.05)
            while not (await bench.store.collections.newest(1))[0].ended_at:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        await tracker.close()
    assert len(await bench.store.collections.newest(10)) == 1


async def test_the_tracker_weighs_trees_beforehand(
    bench: StoreBench, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wtb_ray.actors.files.WEIGH_S", 0.1)
    settings = Settings(data_dir=tmp_path, gc_every_s=0)
    async with ObjectStore(settings.objects()) as objects:
        made = await stepped(bench, [None, await tree(objects, {"a": b"one"}), "ab" * 32])
        tracker = FileTracker(settings, url)
        async with asyncio.timeout(20):
            while (await bench.store.collections.stats())[0]["commits"] < 1:
                await asyncio.sleep(0.05)
        await tracker.close()
    found = await bench.store.files.commits(made.id, 10)
    assert [one.files for one in found] == [None, 1], "one tree is lost"
