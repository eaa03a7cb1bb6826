"""One suite for every kind of store: memory, local files, S3 (moto's real server)."""

import asyncio
import hashlib
import os
import random
import secrets
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import pytest_asyncio
import zstandard

from tests.integration.object_bench import CREDENTIALS, FaultyServer, moto
from wtb_ray import errors
from wtb_ray.objects import ObjectStore, key_of

BIG = (8 << 20) + 7
"""Larger than what is sent from memory."""
ABSENT = "ab" * 32
MAGIC = b"\x28\xb5\x2f\xfd"
FRAME = zstandard.compress(b"a frame that somebody made")


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    with moto() as options:
        yield options


@pytest.fixture(scope="module")
def raw_s3(s3: dict[str, Any]) -> Any:
    return fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False, **s3)


@pytest_asyncio.fixture(params=["memory", "file", "s3"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[ObjectStore, Any]]:
    """A store, and a plain file system on the same place to tamper with it."""
    name, options = secrets.token_hex(4), {}
    if request.param == "s3":
        options, raw = request.getfixturevalue("s3"), request.getfixturevalue("raw_s3")
        url = f"s3://wtb-objects/{name}"
    else:
        url = f"memory://{name}" if request.param == "memory" else f"file://{tmp_path}/{name}"
        raw = fsspec.filesystem(request.param)
    async with ObjectStore(url, **options) as objects:
        yield objects, raw


def place(objects: ObjectStore, digest: str) -> str:
    return f"{objects.url.partition('://')[2]}/{key_of(digest)}"


Store = tuple[ObjectStore, Any]


async def test_what_is_put_comes_back(store: Store) -> None:
    objects, _ = store
    for data in (b"", b"some bytes", os.urandom(3 << 20)):
        digest = await objects.put(data)
        assert digest == hashlib.sha256(data).hexdigest()
        assert await objects.exists(digest)
        assert await objects.get(digest) == data


async def test_objects_lie_under_their_digest(store: Store) -> None:
    objects, raw = store
    digest = await objects.put(b"here")
    assert raw.cat_file(place(objects, digest)) == b"here"


async def test_putting_twice_is_putting_once(store: Store) -> None:
    objects, _ = store
    digests = await asyncio.gather(*(objects.put(b"same" * 500_000) for _ in range(4)))
    assert len(set(digests)) == 1
    assert await objects.get(digests[0]) == b"same" * 500_000


FORMS = {
    b"": False,
    b"xy": False,
    b"text " * 100: True,
    os.urandom(5000): False,
    MAGIC: True,
    MAGIC + os.urandom(5000): True,
    FRAME: True,
    MAGIC[:3]: False,
    bytes(BIG): True,
    os.urandom(1 << 20) * 8 + b"more": False,
    MAGIC + os.urandom(BIG): True,
}
"""Contents, and whether they are stored compressed."""


async def test_objects_are_compressed_where_it_helps_and_read_unambiguously(
    store: Store, tmp_path: Path
) -> None:
    objects, raw = store
    for data, packed in FORMS.items():
        (tmp_path / "in").write_bytes(data)
        digest = await objects.put_file(tmp_path / "in")
        assert digest == hashlib.sha256(data).hexdigest()
        held = raw.cat_file(place(objects, digest))
        assert held.startswith(MAGIC) == packed
        assert held == data or packed
        assert len(held) <= len(data) + 1000
        await objects.get_file(digest, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == data
        assert await objects.put(data) == digest
        assert await objects.get(digest) == data


async def test_many_go_in_and_out_in_order(store: Store) -> None:
    objects, _ = store
    items = [str(i % 70).encode() * (i % 70) for i in range(300)]
    digests = await objects.put_many(iter(items))
    assert digests == [hashlib.sha256(data).hexdigest() for data in items]
    assert [found async for found in objects.get_many(digests[:80])] == list(
        zip(digests[:80], items[:80], strict=True)
    )
    assert await objects.put_many([]) == []
    assert [found async for found in objects.get_many([])] == []


async def test_many_files_go_in_and_out_in_order(store: Store, tmp_path: Path) -> None:
    objects, _ = store
    sizes = [0, 1, 5000, BIG, 100, 5000]
    for i, size in enumerate(sizes):
        (tmp_path / f"in{i}").write_bytes(random.randbytes(size))
    paths = [tmp_path / f"in{i}" for i in range(len(sizes))]
    found = await objects.put_files(paths)
    assert [size for _, size in found] == sizes
    name = os.fsdecode(b"\xff" * 255)
    targets = [tmp_path / "new" / str(i) / name for i in range(len(sizes))]
    wanted = zip([digest for digest, _ in found], targets, [0o644, 0o755, 0o400] * 2, strict=True)
    await objects.get_files(wanted, durable=True)
    for path, target in zip(paths, targets, strict=True):
        assert target.read_bytes() == path.read_bytes()
        assert os.listdir(target.parent) == [name]
    assert [stat.S_IMODE(t.stat().st_mode) for t in targets] == [0o644, 0o755, 0o400] * 2


async def test_a_source_that_cannot_be_read_is_no_fault_of_the_store(
    store: Store, tmp_path: Path
) -> None:
    objects, _ = store
    with pytest.raises(FileNotFoundError) as e:
        await objects.put_files([tmp_path / "gone"])
    assert e.value.filename == str(tmp_path / "gone")
    with pytest.raises(IsADirectoryError):
        await objects.put_file(tmp_path)


async def test_an_absent_object_is_named(store: Store) -> None:
    objects, _ = store
    assert not await objects.exists(ABSENT)
    with pytest.raises(errors.UnknownObject, match=ABSENT) as e:
        await objects.get(ABSENT)
    assert e.value.details == {"digest": ABSENT}


async def test_one_absent_object_among_many_is_named(store: Store, tmp_path: Path) -> None:
    objects, _ = store
    digests = await objects.put_many([b"a", b"b"])
    with pytest.raises(errors.UnknownObject, match=ABSENT):
        [_ async for _ in objects.get_many([digests[0], ABSENT, digests[1]])]
    with pytest.raises(errors.UnknownObject, match=ABSENT):
        await objects.get_files(
            [(digests[0], tmp_path / "a", None), (ABSENT, tmp_path / "b", None)]
        )
    assert not (tmp_path / "b").exists()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "changed": lambda held: held[:20] + bytes([held[20] ^ 1]) + held[21:],
    "truncated": lambda held: held[:-3],
    "longer": lambda held: held + b"x",
    "emptied": lambda held: b"",
    "frame": lambda held: MAGIC + bytes(20) + held[24:],
    "other": lambda held: zstandard.compress(b"something else"),
}


@pytest.mark.parametrize("data", [b"text " * 1000, os.urandom(500)], ids=["packed", "plain"])
async def test_damaged_bytes_are_never_returned_and_healed_by_the_next_put(
    store: Store, tmp_path: Path, data: bytes
) -> None:
    objects, raw = store
    digest = await objects.put(data)
    held = raw.cat_file(place(objects, digest))
    target = tmp_path / "made" / "out"
    for damage in DAMAGE.values():
        raw.pipe_file(place(objects, digest), damage(held))
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: objects.get(digest),
            lambda: objects.get_file(digest, target),
            lambda: anext(objects.get_many([digest])),
        ]
        for call in calls:
            with pytest.raises(errors.ObjectCorrupt, match=digest) as e:
                await call()
            assert e.value.details["digest"] == digest
            assert e.value.details["reason"]
        assert list(target.parent.iterdir()) == []
        await objects.put(data)
        assert await objects.get(digest) == data


async def test_files_are_replaced(store: Store, tmp_path: Path) -> None:
    objects, _ = store
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(1000))
    target.write_bytes(b"old")
    digest = await objects.put_file(source)
    assert await objects.put_file(source) == digest
    await objects.get_file(digest, target)
    assert target.read_bytes() == source.read_bytes()


async def test_an_absent_file_leaves_the_target_alone(store: Store, tmp_path: Path) -> None:
    objects, _ = store
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with pytest.raises(errors.UnknownObject):
        await objects.get_file(ABSENT, target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.glob(".*")) == []


async def test_only_digests_are_looked_up(store: Store, tmp_path: Path) -> None:
    objects, _ = store
    for digest in ("", "../../etc/passwd", ABSENT.upper(), ABSENT[:-1]):
        for call in (
            objects.get(digest),
            objects.exists(digest),
            objects.get_file(digest, tmp_path / "x"),
        ):
            with pytest.raises(errors.InvalidRequest):
                await call


async def test_a_local_store_keeps_nothing_but_whole_objects(tmp_path: Path) -> None:
    async with ObjectStore(f"file://{tmp_path}/my%20objects") as objects:
        await asyncio.gather(*(objects.put(bytes([i]) * 10) for i in range(20)))
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) == 20
    assert {p.relative_to(tmp_path).parts[:2] for p in files} == {("my objects", "blobs")}
    assert all(hashlib.sha256(p.read_bytes()).hexdigest()[2:] == p.name for p in files)


async def test_a_bucket_that_is_not_there_is_a_setting_that_is_wrong(
    s3: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "big").write_bytes(os.urandom(2 * BIG))
    async with ObjectStore("s3://nowhere/x", **s3) as objects:
        for call in (
            objects.put(b"x"),
            objects.put_file(tmp_path / "big"),
            objects.get(ABSENT),
            objects.exists(ABSENT),
        ):
            with pytest.raises(errors.ConfigurationError, match="s3://nowhere/x") as e:
                await call
            assert e.value.details == {"setting": "objects_url", "reason": "no such bucket"}


async def test_the_environment_alone_configures_s3(
    s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FaultyServer(s3["endpoint_url"]).running() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_REGION", "eu-north-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        async with ObjectStore("s3://wtb-objects/with/prefix") as objects:
            digest = await objects.put(b"by environment")
            assert await objects.get(digest) == b"by environment"
    assert {request.path for request in server.seen} == {
        f"/wtb-objects/with/prefix/{key_of(digest)}"
    }
    assert all(b"somebody/" in r.head and b"/eu-north-1/s3" in r.head for r in server.seen)


async def test_the_files_of_aws_configure_s3(
    s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    (tmp_path / ".aws").mkdir()
    async with FaultyServer(s3["endpoint_url"]).running() as server:
        (tmp_path / ".aws/config").write_text(
            f"[profile lab]\nregion = eu-west-3\nendpoint_url = {server.url}\n"
        )
        (tmp_path / ".aws/credentials").write_text(
            "[lab]\naws_access_key_id = other\naws_secret_access_key = x\n"
        )
        async with ObjectStore("s3://wtb-objects") as objects:
            digest = await objects.put(b"by files")
            assert await objects.exists(digest)
    assert {request.path for request in server.seen} == {f"/wtb-objects/{key_of(digest)}"}
    assert all(b"other/" in r.head and b"/eu-west-3/s3" in r.head for r in server.seen)


WRITER = """
import asyncio, sys
from wtb_ray.objects import ObjectStore
async def main():
    async with ObjectStore(sys.argv[1]) as objects:
        for i in range(10**9):
            for digest in await objects.put_many([f"{i} {j}".encode() * 50 for j in range(20)]):
                print(digest, flush=True)
asyncio.run(main())
"""


async def test_a_killed_writer_leaves_whole_objects_and_all_it_has_told_of(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, f"file://{tmp_path}/o"], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline().strip() for _ in range(500)]
        writer.kill()
    async with ObjectStore(f"file://{tmp_path}/o") as objects:
        held = [p.parent.name + p.name for p in tmp_path.glob("o/blobs/*/*")]
        assert set(told) <= set(held)
        assert len([found async for found in objects.get_many(held)]) == len(held)


async def test_a_folder_that_cannot_be_written_is_a_setting_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.ConfigurationError, match="file"):
        await ObjectStore(f"file://{tmp_path}/file/objects").put(b"x")


async def test_a_server_that_is_away_is_unavailable() -> None:
    options = {"endpoint_url": "http://127.0.0.1:9", **CREDENTIALS}
    async with ObjectStore("s3://wtb-objects/x", deadline_s=0.5, **options) as objects:
        with pytest.raises(errors.Unavailable, match="does not answer"):
            await objects.get(ABSENT)


def test_an_unknown_protocol_is_refused_at_once() -> None:
    with pytest.raises(errors.ConfigurationError, match="gopher"):
        ObjectStore("gopher://host/x")
