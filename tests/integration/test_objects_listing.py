"""Listing and deleting objects, in every kind of store."""

import time
from typing import Any

import pytest

from tests.integration.test_objects import ABSENT, Store, place, raw_s3, s3, store
from wtb_ray import errors
from wtb_ray.objects import SHARDS, ObjectStore, Stored

__all__ = ["raw_s3", "s3", "store"]


async def listed(objects: ObjectStore, prefix: str = "") -> dict[str, Stored]:
    found = [item async for item in objects.listed(prefix)]
    assert len({item.digest for item in found}) == len(found), "one was listed twice"
    return {item.digest: item for item in found}


async def test_every_object_is_listed_with_its_size_and_time(store: Store) -> None:
    objects, raw = store
    assert await listed(objects) == {}
    before = await objects.now()
    digests = await objects.put_many([b"%d" % n * n for n in range(40)])
    found = await listed(objects)
    assert sorted(found) == sorted(set(digests))
    for digest, item in found.items():
        assert item.size == raw.info(place(objects, digest))["size"]
        assert before - 2 <= item.modified <= time.time() + 2


async def test_shards_together_are_everything(store: Store) -> None:
    objects, _ = store
    digests = await objects.put_many([b"%d" % n for n in range(300)])
    together: dict[str, Stored] = {}
    for shard in SHARDS:
        part = await listed(objects, shard)
        assert all(digest.startswith(shard) for digest in part)
        together |= part
    assert sorted(together) == sorted(digests)
    assert sorted(await listed(objects, digests[0][:5])) == [digests[0]]
    assert sorted(await listed(objects, digests[0])) == [digests[0]]
    assert sorted(await listed(objects, "a")) == sorted(d for d in digests if d[0] == "a")


async def test_what_is_no_object_is_not_listed(store: Store) -> None:
    objects, raw = store
    digest = await objects.put(b"an object")
    path = place(objects, digest)
    raw.pipe_file(f"{path}.bak", b"no object")
    raw.pipe_file(f"{path.rpartition('/')[0]}/README", b"no object")
    assert list(await listed(objects)) == [digest]
    with pytest.raises(errors.InvalidRequest):
        await listed(objects, "../")


async def test_what_is_deleted_is_gone_and_can_be_put_again(store: Store) -> None:
    objects, _ = store
    digests = await objects.put_many([b"%d" % n for n in range(20)])
    await objects.delete([*digests[:15], ABSENT])
    assert sorted(await listed(objects)) == sorted(digests[15:])
    assert not await objects.exists(digests[0])
    with pytest.raises(errors.UnknownObject):
        await objects.get(digests[0])
    await objects.put(b"0")
    assert await objects.get(digests[0]) == b"0"
    await objects.delete([])


async def test_deleting_takes_no_path(store: Store) -> None:
    objects, _ = store
    with pytest.raises(errors.InvalidRequest):
        await objects.delete(["../../etc"])


async def test_deleting_ends_when_its_time_is_over(store: Store) -> None:
    objects, _ = store
    digest = await objects.put(b"late")
    with pytest.raises(errors.Unavailable):
        await objects.delete([digest], within_s=-1.0)
    assert await objects.exists(digest)


async def test_more_than_a_page_is_listed_and_deleted(s3: dict[str, Any], raw_s3: Any) -> None:
    async with ObjectStore("s3://wtb-objects/pages", **s3) as objects:
        digests = [f"ab{n:062x}" for n in range(1100)]
        for digest in digests:
            raw_s3.pipe_file(place(objects, digest), b"")
        assert sorted(await listed(objects, "ab")) == digests
        await objects.delete(digests)
        assert await listed(objects) == {}


async def test_what_was_staged_and_never_became_an_object_goes(store: Store) -> None:
    objects, raw = store
    digest = await objects.put(b"an object")
    folder = place(objects, digest).partition("/blobs/")[0]
    raw.makedirs(f"{folder}/tmp", exist_ok=True)
    raw.pipe_file(f"{folder}/tmp/0123", b"its process has died")
    assert await objects.tidy(3600.0) == 0
    assert raw.exists(f"{folder}/tmp/0123")
    assert await objects.tidy(-10.0) == 1
    assert not raw.exists(f"{folder}/tmp/0123")
    assert list(await listed(objects)) == [digest]
