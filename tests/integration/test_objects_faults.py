"""Objects in an S3 that fails, stalls and repeats, and in places that cannot be used."""

import asyncio
import random
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import pytest_asyncio

from tests.integration.disks import small_disk
from tests.integration.object_bench import BUCKET, CREDENTIALS, FAULTS, FaultyServer, moto
from wtb_ray import errors
from wtb_ray.objects import ObjectStore, key_of

LARGE = (16 << 20) + 1
"""Three parts."""


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    with moto() as options:
        yield options


@pytest_asyncio.fixture
async def server(s3: dict[str, Any]) -> AsyncIterator[FaultyServer]:
    async with FaultyServer(s3["endpoint_url"]).running() as server:
        yield server


def options(server: FaultyServer) -> dict[str, Any]:
    return {"endpoint_url": server.url, **CREDENTIALS}


def through(server: FaultyServer, deadline_s: float = 20, **credentials: str) -> ObjectStore:
    url = f"s3://{BUCKET}/{random.randbytes(4).hex()}"
    return ObjectStore(url, deadline_s=deadline_s, **{**options(server), **credentials})


def bucket(s3: dict[str, Any]) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=s3["endpoint_url"],
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    )


def stored(s3: dict[str, Any], objects: ObjectStore) -> list[str]:
    prefix = objects.url.removeprefix(f"s3://{BUCKET}/")
    found = bucket(s3).list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return [item["Key"] for item in found.get("Contents", [])]


@pytest.mark.parametrize("how", FAULTS)
async def test_passing_faults_are_outlived(server: FaultyServer, how: str) -> None:
    async with through(server) as objects:
        server.first(1, how)
        items = [random.randbytes(n) for n in (0, 1, 100, 5000)]
        digests = await objects.put_many(items)
        assert [data async for _, data in objects.get_many(digests)] == items
        assert await objects.exists(digests[1])
    assert server.faults == 9


@pytest.mark.parametrize("how", ["lose", "repeat", "flip"])
async def test_passing_faults_of_large_files_are_outlived(
    server: FaultyServer, tmp_path: Path, how: str
) -> None:
    source = tmp_path / "in"
    source.write_bytes(random.randbytes(LARGE))
    async with through(server) as objects:
        server.first(1, how)
        digest = await objects.put_file(source)
        await objects.get_file(digest, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == source.read_bytes()
    assert {r.method for r in server.seen} == {"HEAD", "POST", "PUT", "GET"}


@pytest.mark.parametrize("seed", range(3))
async def test_random_faults_never_give_a_wrong_byte(server: FaultyServer, seed: int) -> None:
    dice = random.Random(seed)
    items = [dice.randbytes(dice.randrange(3000)) * dice.choice((1, 30)) for _ in range(30)]
    async with through(server) as objects:
        server.sometimes(seed, 0.25)
        digests = await objects.put_many(items)
        try:
            assert [data async for _, data in objects.get_many(digests)] == items
        except errors.ObjectCorrupt:  # damaged on the way twice in a row: told, not returned
            server.fault = lambda request: None
            assert [data async for _, data in objects.get_many(digests)] == items


@pytest.mark.parametrize("how", ["503", "reset", "stall", "lose"])
async def test_faults_that_stay_are_told_within_the_deadline(
    server: FaultyServer, s3: dict[str, Any], tmp_path: Path, how: str
) -> None:
    async with through(server) as before:
        digest = await before.put(b"before")
    async with ObjectStore(before.url, deadline_s=0.3, **options(server)) as objects:
        server.fault = lambda request: how
        (tmp_path / "large").write_bytes(random.randbytes(LARGE))
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "put": lambda: objects.put_many([b"a", b"b"]),
            "put_file": lambda: objects.put_file(tmp_path / "large"),
            "get": lambda: objects.get(digest),
            "get_file": lambda: objects.get_file(digest, tmp_path / "out"),
            "exists": lambda: objects.exists(digest),
        }
        if how == "lose":
            del calls["put"]  # these arrive, only nobody hears of it
        begun = time.monotonic()
        told = await asyncio.gather(*(call() for call in calls.values()), return_exceptions=True)
        assert time.monotonic() - begun < 10
        assert [type(e) for e in told] == [errors.Unavailable] * len(calls)
        assert stored(s3, objects) == [
            f"{objects.url.removeprefix(f's3://{BUCKET}/')}/{key_of(digest)}"
        ]
    assert [p.name for p in tmp_path.iterdir()] == ["large"]


async def test_a_part_that_never_arrives_leaves_nothing_half_made(
    server: FaultyServer, s3: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(random.randbytes(LARGE))
    async with through(server, deadline_s=0.3) as objects:
        server.fault = lambda request: "500" if "partNumber=3" in request.path else None
        with pytest.raises(errors.Unavailable):
            await objects.put_file(tmp_path / "large")
        assert stored(s3, objects) == []
    uploads = bucket(s3).list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    assert [u for u in uploads if u["Key"].startswith(objects.url.rpartition("/")[2])] == []


async def test_an_upload_that_is_cancelled_leaves_nothing_half_made(
    server: FaultyServer, s3: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(random.randbytes(LARGE))
    reached = asyncio.Event()
    async with through(server) as objects:

        def stall(request: Any) -> str | None:
            if "partNumber=2" not in request.path:
                return None
            reached.set()
            return "stall"

        server.fault = stall
        putting = asyncio.create_task(objects.put_file(tmp_path / "large"))
        await reached.wait()
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert stored(s3, objects) == []
    uploads = bucket(s3).list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    assert [u for u in uploads if u["Key"].startswith(objects.url.rpartition("/")[2])] == []


async def test_bytes_that_are_always_damaged_are_refused(server: FaultyServer) -> None:
    async with through(server) as objects:
        digest = await objects.put(random.randbytes(100))
        server.fault = lambda request: "flip"
        with pytest.raises(errors.ObjectCorrupt, match=digest) as e:
            await objects.get(digest)
    assert e.value.details["digest"] == digest


async def test_a_lost_large_object_is_stored_again(
    server: FaultyServer, s3: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(random.randbytes(LARGE))
    async with through(server) as objects:
        digest = await objects.put_file(tmp_path / "large")
        key = f"{objects.url.removeprefix(f's3://{BUCKET}/')}/{key_of(digest)}"
        bucket(s3).put_object(Bucket=BUCKET, Key=key, Body=b"damaged")
        with pytest.raises(errors.ObjectCorrupt):
            await objects.get_file(digest, tmp_path / "out")
        assert await objects.put_file(tmp_path / "large") == digest
        await objects.get_file(digest, tmp_path / "out")


async def test_known_objects_are_not_sent_again(server: FaultyServer) -> None:
    async with through(server) as objects:
        await objects.put_many([b"a", b"b"])
        sent = len(server.seen)
        await objects.put_many([b"b", b"a", b"b"])
        assert len(server.seen) == sent


async def test_a_full_remote_store_is_told(server: FaultyServer) -> None:
    async with through(server) as objects:
        server.fault = lambda request: "507"
        with pytest.raises(errors.StorageFull) as e:
            await objects.put(b"x")
    assert e.value.details["path"] == objects.url


async def test_a_file_that_never_rests_is_refused(
    server: FaultyServer, s3: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "log"
    path.write_bytes(random.randbytes(LARGE))

    def grow(request: Any) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    async with through(server) as objects:
        server.fault = grow
        with pytest.raises(errors.FilesRefused) as e:
            await objects.put_file(path)
        assert stored(s3, objects) == []
    assert e.value.details == {"path": str(path), "reason": "changes while read"}


@pytest.fixture
def locked(s3: dict[str, Any]) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """An S3 that checks keys: options of nobody, and of somebody who may do nothing."""
    iam = boto3.client(
        "iam",
        endpoint_url=s3["endpoint_url"],
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    )
    iam.create_user(UserName="poor")
    key = iam.create_access_key(UserName="poor")["AccessKey"]
    auth = f"{s3['endpoint_url']}/moto-api/reset-auth"
    httpx.post(auth, content=b"0").raise_for_status()
    yield (
        {"key": "AKIAUNKNOWN", "secret": "x"},
        {"key": key["AccessKeyId"], "secret": key["SecretAccessKey"]},
    )
    httpx.post(auth, content=b"inf").raise_for_status()


async def test_credentials_that_are_wrong_or_not_enough_are_settings(
    server: FaultyServer, locked: tuple[dict[str, str], dict[str, str]], tmp_path: Path
) -> None:
    for credentials, reason in zip(locked, ["wrong credentials", "no permission"], strict=True):
        async with through(server, 20, **credentials) as objects:
            for call in (
                objects.put(b"x"),
                objects.get("ab" * 32),
                objects.get_file("ab" * 32, tmp_path / "out"),
            ):
                with pytest.raises(errors.ConfigurationError, match="s3://") as e:
                    await call
                assert e.value.details == {"setting": "objects_url", "reason": reason}
            with pytest.raises(errors.ConfigurationError):
                await objects.exists("ab" * 32)  # HEAD has no body that says which of them
    assert list(tmp_path.iterdir()) == []


async def test_no_credentials_at_all_is_a_setting(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    async with ObjectStore("s3://wtb-objects/x", endpoint_url=server.url) as objects:
        with pytest.raises(errors.ConfigurationError) as e:
            await objects.put(b"x")
    assert e.value.details["reason"] == "wrong credentials"
    assert server.seen == []


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    with small_disk(tmp_path / "small", "1m") as place:
        yield place


async def test_a_full_disk_is_told_and_leaves_whole_objects_only(
    small: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(random.randbytes(9 << 20))
    async with ObjectStore(f"file://{small}/objects") as objects:
        kept = await objects.put(b"kept")
        for call in (
            objects.put(random.randbytes(2 << 20)),
            objects.put_many([random.randbytes(200_000) for _ in range(12)]),
            objects.put_files([source]),
        ):
            with pytest.raises(errors.StorageFull) as e:
                await call
            assert e.value.details["path"].startswith(str(small))
            assert e.value.details["reason"] == "No space left on device"
        assert await objects.get(kept) == b"kept"
        await objects.put(b"still works")
    for path in small.rglob("*"):
        assert path.is_dir() or path.stat().st_size < 100


async def test_a_target_without_room_is_told_and_left_alone(small: Path, tmp_path: Path) -> None:
    async with ObjectStore(f"file://{tmp_path}/objects") as objects:
        for data in (random.randbytes(2 << 20), bytes(2 << 20)):
            digest = await objects.put(data)
            with pytest.raises(errors.StorageFull) as e:
                await objects.get_file(digest, small / "out")
            assert e.value.details["path"] == str(small / "out")
            assert list(small.iterdir()) == []


async def test_a_disk_that_became_read_only_is_a_setting_that_is_wrong(small: Path) -> None:
    async with ObjectStore(f"file://{small}/objects") as objects:
        kept = await objects.put(b"kept")
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        with pytest.raises(errors.ConfigurationError) as e:
            await objects.put(b"more")
        assert e.value.details["setting"] == "objects_url"
        assert e.value.details["reason"] == "Read-only file system"
        assert await objects.get(kept) == b"kept"
