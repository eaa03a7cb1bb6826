"""One suite for every kind of store: memory, local files, S3 (moto's real server)."""

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import pytest_asyncio
from moto.server import ThreadedMotoServer

from wtb_ray import errors
from wtb_ray.objects import ObjectStore, key_of

BIG = 9 << 20
"""Larger than what is sent from memory."""
ABSENT = "ab" * 32


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    """Storage options of an S3 server with the bucket `wtb`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}", "key": "test", "secret": "test"}
    fsspec.filesystem("s3", skip_instance_cache=True, **options).mkdir("wtb")
    yield options
    server.stop()


@pytest_asyncio.fixture(params=["memory", "file", "s3"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[ObjectStore, Any]]:
    """A store, and a plain file system on the same place to tamper with it."""
    name = secrets.token_hex(4)
    if request.param == "s3":
        options = request.getfixturevalue("s3")
        url, raw = f"s3://wtb/{name}", fsspec.filesystem("s3", skip_instance_cache=True, **options)
    else:
        options = {}
        url = f"memory://{name}" if request.param == "memory" else f"file://{tmp_path}/{name}"
        raw = fsspec.filesystem(request.param)
    async with ObjectStore(url, **options) as objects:
        yield objects, raw


def place(objects: ObjectStore, digest: str) -> str:
    return f"{objects.url.partition('://')[2]}/{key_of(digest)}"


Store = tuple[ObjectStore, Any]


@pytest.mark.parametrize("data", [b"", b"some bytes", os.urandom(3 << 20)], ids=["0", "10", "3M"])
async def test_what_is_put_comes_back(store: Store, data: bytes) -> None:
    objects, _ = store
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


async def test_an_absent_object_is_named(store: Store) -> None:
    objects, _ = store
    assert not await objects.exists(ABSENT)
    with pytest.raises(errors.UnknownObject, match=ABSENT) as e:
        await objects.get(ABSENT)
    assert e.value.details == {"digest": ABSENT}


async def test_changed_bytes_are_never_returned(store: Store, tmp_path: Path) -> None:
    objects, raw = store
    digest = await objects.put(b"right")
    raw.pipe_file(place(objects, digest), b"wrong")
    with pytest.raises(errors.ObjectCorrupt, match=digest):
        await objects.get(digest)
    with pytest.raises(errors.ObjectCorrupt, match=digest):
        await objects.get_file(digest, tmp_path / "out")
    assert list(tmp_path.glob("out*")) == list(tmp_path.glob(".out*")) == []


async def test_a_torn_object_is_healed_by_the_next_put(store: Store) -> None:
    objects, raw = store
    digest = await objects.put(b"whole")
    raw.pipe_file(place(objects, digest), b"who")
    with pytest.raises(errors.ObjectCorrupt):
        await objects.get(digest)
    await objects.put(b"whole")
    assert await objects.get(digest) == b"whole"


@pytest.mark.parametrize("size", [0, 1000, BIG])
async def test_files_go_in_and_out(store: Store, tmp_path: Path, size: int) -> None:
    objects, _ = store
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(size))
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
    assert list(tmp_path.glob(".target*")) == []


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", ABSENT.upper(), ABSENT[:-1]])
async def test_only_digests_are_looked_up(store: Store, tmp_path: Path, digest: str) -> None:
    objects, _ = store
    for call in (objects.get(digest), objects.exists(digest), objects.get_file(digest, tmp_path)):
        with pytest.raises(errors.InvalidRequest):
            await call


async def test_a_local_store_keeps_nothing_but_whole_objects(tmp_path: Path) -> None:
    async with ObjectStore(f"file://{tmp_path}/my%20objects") as objects:
        await asyncio.gather(*(objects.put(bytes([i]) * 10) for i in range(20)))
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) == 20
    assert {p.relative_to(tmp_path).parts[:2] for p in files} == {("my objects", "blobs")}
    assert all(hashlib.sha256(p.read_bytes()).hexdigest()[2:] == p.name for p in files)


async def test_a_bucket_that_is_not_there_is_a_setting_that_is_wrong(s3: dict[str, Any]) -> None:
    async with ObjectStore("s3://nowhere/x", **s3) as objects:
        with pytest.raises(errors.ConfigurationError, match="s3://nowhere/x"):
            await objects.put(b"x")


async def test_a_folder_that_cannot_be_written_is_a_setting_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.ConfigurationError, match="file"):
        await ObjectStore(f"file://{tmp_path}/file/objects").put(b"x")


async def test_a_server_that_is_away_is_unavailable() -> None:
    options = {"endpoint_url": "http://127.0.0.1:9", "key": "k", "secret": "s"}
    async with ObjectStore("s3://wtb/x", deadline_s=0.5, **options) as objects:
        with pytest.raises(errors.Unavailable, match="does not answer"):
            await objects.get(ABSENT)


def test_an_unknown_protocol_is_refused_at_once() -> None:
    with pytest.raises(errors.ConfigurationError, match="gopher"):
        ObjectStore("gopher://host/x")
