"""Objects on any other file system of fsspec, by its blocking methods in threads.

`Remote` owns what all of them share: several objects at a time, retries under a deadline, reading
in ranges, a second reading before stored bytes are called damaged.
"""

import asyncio
import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.utils import get_protocol

from wtb_ray import errors
from wtb_ray.objects.blobs import Blob, Incoming, Source, Stored, digest_of_key, key_of
from wtb_ray.objects.guard import generation
from wtb_ray.objects.known import Known
from wtb_ray.objects.waiting import bounded, retried

T = TypeVar("T")

PART = 4 << 20
"""The most that one request reads."""
_AT_ONCE = 16
"""Requests, and objects on their way in, at a time: of all callers together."""
_LOOK_FIRST = 1 << 20
"""From this size on a look whether the object is there costs less than sending it again."""
NO_PLACE = "no such bucket"
_DELETED = 1000
"""The most that one request deletes."""
_TIMES = ("LastModified", "mtime", "modified", "last_modified", "updated", "timeModified")
"""Where file systems say when a file was written."""
_SETTING = (PermissionError, NotADirectoryError, IsADirectoryError, FileNotFoundError)


class Remote(ABC):
    """A file system over a network as the place of objects."""

    def __init__(self, url: str, deadline_s: float):
        self._url = url
        self._deadline_s = deadline_s
        self._known = Known()
        self._damaged = Known()
        self._requests = asyncio.Semaphore(_AT_ONCE)
        self._fetches = asyncio.Semaphore(_AT_ONCE)

    async def size(self, digest: str) -> int | None:
        return await self._call(lambda: self._size(key_of(digest)))

    async def missing(self, digests: Sequence[str]) -> list[str]:
        there: dict[str, bool] = {}

        async def look(digest: str) -> None:
            there[digest] = await self.size(digest) is not None

        await bounded(_AT_ONCE, digests, look)
        return [digest for digest in digests if not there[digest]]

    def distrust(self, digest: str) -> None:
        self._known.discard(digest)
        self._damaged.add(digest)

    async def write(self, blobs: Sequence[Blob]) -> None:
        await bounded(_AT_ONCE, blobs, self._write_one)

    @abstractmethod
    async def upload(self, path: Path) -> tuple[str, int]: ...

    async def fetch(self, wanted: Sequence[Incoming]) -> None:
        await bounded(_AT_ONCE, wanted, self._fetch_one)

    def holds(self, digest: str) -> bool:
        return self._known.holds(digest, generation())

    @abstractmethod
    def listed(self, prefix: str) -> AsyncIterator[list[Stored]]: ...

    async def delete(self, digests: Sequence[str], until: float) -> None:
        for digest in digests:
            self._known.discard(digest)
        rounds = [digests[i : i + _DELETED] for i in range(0, len(digests), _DELETED)]
        for some in rounds:
            await self._call(partial(self._delete_before, until, [key_of(d) for d in some]))

    async def tidy(self, older_s: float) -> int:
        youngest = await self.now() - older_s
        staged = await self._call(self._staged)
        old = [key for key, modified in staged if modified < youngest]
        for some in (old[i : i + _DELETED] for i in range(0, len(old), _DELETED)):
            await self._call(partial(self._delete, some))
        return len(old)

    async def now(self) -> float:
        key = f"tmp/{secrets.token_hex(8)}"
        await self._send(key, b"now")
        try:
            return await self._call(lambda: self._modified(key))
        finally:
            await self._call(lambda: self._delete([key]))

    async def _delete_before(self, until: float, keys: Sequence[str]) -> None:
        """One attempt, which begins in time or not at all."""
        if time.monotonic() > until:
            raise errors.Unavailable(f"object store {self._url} deletes too slowly", reason="late")
        await self._delete(keys)

    @abstractmethod
    async def aclose(self) -> None: ...

    async def _write_one(self, blob: Blob) -> None:
        key, size = key_of(blob.digest), len(blob.stored)
        if not (size >= _LOOK_FIRST and await self._stored(blob.digest) == size):
            await self._send(key, blob.stored)
        self._settled(blob.digest)

    async def _stored(self, digest: str) -> int | None:
        """The size of what is stored, unless that is known to be damaged."""
        return None if digest in self._damaged else await self.size(digest)

    def _settled(self, digest: str) -> None:
        self._known.add(digest, generation())
        self._damaged.discard(digest)

    async def _send(self, key: str, data: bytes) -> None:
        try:
            await self._call(lambda: self._put(key, data))
        except FileNotFoundError as e:
            raise self._misplaced(e, NO_PLACE) from e

    async def _fetch_one(self, incoming: Incoming) -> None:
        try:
            async with self._fetches:
                try:
                    await self._receive(incoming)
                except errors.ObjectCorrupt:
                    # It may have been damaged on the way only, or replaced between two ranges.
                    await self._receive(incoming)
        except errors.NotFound:
            self._known.discard(incoming.digest)
            raise
        except errors.ObjectCorrupt:
            self._known.discard(incoming.digest)
            self._damaged.add(incoming.digest)
            raise

    async def _receive(self, incoming: Incoming) -> None:
        try:
            await asyncio.to_thread(incoming.begin)
            async for piece in self._pieces(incoming.digest):
                await asyncio.to_thread(incoming.write, piece)
            await asyncio.to_thread(incoming.finish)
        finally:
            incoming.abandon()

    async def _pieces(self, digest: str) -> AsyncIterator[bytes]:
        start, total = 0, 1
        while start < total:
            try:
                piece, total = await self._call(
                    lambda start=start: self._range(key_of(digest), start)  # type: ignore[misc]
                )
            except FileNotFoundError:
                raise errors.UnknownObject(
                    f"{self._url} has no object {digest}", digest=digest
                ) from None
            if piece:
                yield piece
            elif start < total:
                return  # the digest tells that bytes are missing
            start += len(piece)

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Retried, with the driver's errors as errors of ours; FileNotFoundError stays."""
        try:
            async with self._requests:
                return await retried(
                    call,
                    self._passing,
                    deadline_s=self._deadline_s,
                    attempt_s=max(1.0, self._deadline_s / 3),
                )
        except (errors.WTBError, FileNotFoundError):
            raise
        except Exception as e:
            raise self._explained(e) from e

    @abstractmethod
    def _passing(self, error: Exception) -> bool: ...

    @abstractmethod
    def _explained(self, error: Exception) -> errors.WTBError: ...

    @abstractmethod
    async def _size(self, key: str) -> int | None: ...

    @abstractmethod
    async def _put(self, key: str, data: bytes) -> None: ...

    @abstractmethod
    async def _range(self, key: str, start: int) -> tuple[bytes, int]:
        """Up to `PART` stored bytes from `start`, and how many there are in all."""

    @abstractmethod
    async def _delete(self, keys: Sequence[str]) -> None:
        """Deletes up to `_DELETED`; what is not there is no error."""

    @abstractmethod
    async def _modified(self, key: str) -> float: ...

    @abstractmethod
    async def _staged(self) -> list[tuple[str, float]]:
        """What lies in `tmp/`, with its times: leftovers, a few."""

    def _misplaced(self, error: object, reason: str) -> errors.ConfigurationError:
        return errors.ConfigurationError(
            f"objects cannot be kept in {self._url}: {error}",
            setting="objects_url",
            reason=reason,
        )

    def _away(self, error: Exception) -> errors.Unavailable:
        return errors.Unavailable(
            f"object store {self._url} does not answer: {type(error).__name__}: {error}",
            reason="object_store",
        )


class Plain(Remote):
    """`memory://` and every file system that has no part of its own here."""

    def __init__(self, url: str, options: dict[str, Any], deadline_s: float):
        super().__init__(url, deadline_s)
        cls = fsspec.get_filesystem_class(get_protocol(url))
        kwargs = {**cls._get_kwargs_from_urls(url), **options}
        # Listings that are kept would hide the objects of others.
        self._fs = cls(skip_instance_cache=True, use_listings_cache=False, **kwargs)
        self._prefix = str(cls._strip_protocol(url)).rstrip("/")

    async def upload(self, path: Path) -> tuple[str, int]:
        try:
            digest, size = await self._call(lambda: asyncio.to_thread(self._upload, path))
        except FileNotFoundError as e:
            if e.filename == str(path):
                raise
            raise self._misplaced(e, NO_PLACE) from e
        self._settled(digest)
        return digest, size

    async def aclose(self) -> None:
        pass

    async def _size(self, key: str) -> int | None:
        try:
            return int((await asyncio.to_thread(self._fs.info, self._path(key)))["size"])
        except FileNotFoundError:
            return None

    async def _put(self, key: str, data: bytes) -> None:
        await asyncio.to_thread(self._fs.pipe_file, self._path(key), data)

    async def _range(self, key: str, start: int) -> tuple[bytes, int]:
        path = self._path(key)
        total = int((await asyncio.to_thread(self._fs.info, path))["size"])
        end = min(start + PART, total)
        data = await asyncio.to_thread(self._fs.cat_file, path, start, end) if end else b""
        return bytes(data), total

    async def listed(self, prefix: str) -> AsyncIterator[list[Stored]]:
        found = await self._call(lambda: asyncio.to_thread(self._ls, "blobs"))
        names = (str(info["name"]).rstrip("/").rpartition("/")[2] for info in found)
        for shard in sorted(name for name in names if name.startswith(prefix[:2])):
            page = await self._call(lambda: asyncio.to_thread(self._shard, shard, prefix[2:]))  # noqa: B023
            if page:
                yield page

    async def _delete(self, keys: Sequence[str]) -> None:
        await asyncio.to_thread(self._delete_all, keys)

    async def _modified(self, key: str) -> float:
        return await asyncio.to_thread(self._time_of, self._path(key), {})

    async def _staged(self) -> list[tuple[str, float]]:
        found = await asyncio.to_thread(self._ls, "tmp")
        paths = [(str(info["name"]), info) for info in found]
        return [
            (f"tmp/{path.rpartition('/')[2]}", self._time_of(path, info)) for path, info in paths
        ]

    def _ls(self, folder: str) -> list[dict[str, Any]]:
        try:
            return list(self._fs.ls(self._path(folder), detail=True))
        except FileNotFoundError:
            return []

    def _shard(self, shard: str, prefix: str) -> list[Stored]:
        page = []
        for info in self._ls(f"blobs/{shard}"):
            path = str(info["name"])
            name = path.rpartition("/")[2]
            digest = digest_of_key(shard, name)
            if digest is None or not name.startswith(prefix) or info["type"] != "file":
                continue
            with suppress(FileNotFoundError):  # it went meanwhile
                page.append(Stored(digest, int(info["size"]), self._time_of(path, info)))
        return page

    def _time_of(self, path: str, info: dict[str, Any]) -> float:
        found = next((info[name] for name in _TIMES if name in info), None)
        found = self._fs.modified(path) if found is None else found
        if isinstance(found, str):
            found = datetime.fromisoformat(found)
        if isinstance(found, datetime):
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
        return float(found)

    def _delete_all(self, keys: Sequence[str]) -> None:
        for key in keys:
            with suppress(FileNotFoundError):
                self._fs.rm_file(self._path(key))

    def _upload(self, path: Path) -> tuple[str, int]:
        """Under another name first, so that nothing half written has the digest as its name."""
        staged = self._path(f"tmp/{secrets.token_hex(8)}")
        with path.open("rb", buffering=0) as file:
            source = Source(file)
            try:
                with self._fs.open(staged, "wb") as out:
                    for piece in source.pieces():
                        out.write(piece)
                self._fs.mv(staged, self._path(key_of(source.digest)))
            except BaseException:
                with suppress(FileNotFoundError):
                    self._fs.rm_file(staged)
                raise
        return source.digest, source.size

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key}"

    def _passing(self, error: Exception) -> bool:
        return not isinstance(error, (*_SETTING, errors.WTBError, ValueError, TypeError))

    def _explained(self, error: Exception) -> errors.WTBError:
        if isinstance(error, _SETTING):
            return self._misplaced(error, os.strerror(error.errno or 0))
        return self._away(error)
