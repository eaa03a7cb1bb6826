"""The content-addressed object store: bytes under their own SHA-256, over fsspec.

Guarantees: what `put` has returned is durable (fsynced, or acknowledged by the store); `get` never
returns bytes that do not have the digest asked for; a crash leaves nothing half written under a
digest. Objects are immutable, so that any number of processes may write the same one. Never knows
what the bytes mean, never deletes.
"""

import asyncio
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.utils import get_protocol

from wtb_ray import errors

_DIGEST = re.compile(r"[0-9a-f]{64}")
_INLINE = 8 << 20
"""Files up to this size are sent from memory."""
_OFFLOAD = 256 << 10
"""From this size on hashing is slow enough to leave the event loop for it."""


class ObjectStore:
    """Objects under one fsspec URL: `file:///path`, `memory://name`, `s3://bucket/prefix`, ...

    An instance belongs to the event loop that it is first used in.
    """

    def __init__(self, url: str, **storage_options: Any) -> None:
        self.url = url
        self._backend = _backend(url, storage_options)

    async def put(self, data: bytes) -> str:
        """Store `data` and return its digest; storing what is there already costs little."""
        digest = await _digest(data)
        key = key_of(digest)
        with self._translated(digest, writing=True):
            known = len(data) >= self._backend.ask_first_from
            if not (known and await self._backend.size(key) == len(data)):
                await self._backend.write(key, data)
        return digest

    async def get(self, digest: str) -> bytes:
        """The bytes of an object.

        Raises:
            UnknownObject: No such object is stored.
            ObjectCorrupt: The stored bytes are not those that were put.
        """
        key = key_of(digest)
        with self._translated(digest):
            data = await self._backend.read(key)
        self._verify(digest, await _digest(data))
        return data

    async def exists(self, digest: str) -> bool:
        """Whether an object is stored under this digest."""
        key = key_of(digest)
        with self._translated(digest):
            return await self._backend.size(key) is not None

    async def put_file(self, path: Path) -> str:
        """Store a file of any size and return its digest.

        A file that changes meanwhile gives one of its states or a mix, never a wrong digest.
        """
        if (await asyncio.to_thread(path.stat)).st_size <= _INLINE:
            return await self.put(await asyncio.to_thread(path.read_bytes))
        with self._backend.staging() as directory:
            staged = directory / secrets.token_hex(8)
            digest = await asyncio.to_thread(_copy_hashed, path, staged)
            key, size = key_of(digest), (await asyncio.to_thread(staged.stat)).st_size
            try:
                with self._translated(digest, writing=True):
                    if await self._backend.size(key) != size:
                        await self._backend.upload(key, staged)
            finally:
                staged.unlink(missing_ok=True)
        return digest

    async def get_file(self, digest: str, target: Path) -> None:
        """Write an object to `target`, which appears complete or not at all.

        Raises:
            UnknownObject: No such object is stored.
            ObjectCorrupt: The stored bytes are not those that were put.
        """
        key = key_of(digest)
        partial = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        try:
            with self._translated(digest):
                await self._backend.download(key, partial)
            self._verify(digest, await asyncio.to_thread(_hash_file, partial))
            await asyncio.to_thread(os.replace, partial, target)
        finally:
            partial.unlink(missing_ok=True)

    async def aclose(self) -> None:
        """Close the store's connections."""
        await self._backend.aclose()

    async def __aenter__(self) -> "ObjectStore":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def _verify(self, digest: str, found: str) -> None:
        if found != digest:
            raise errors.ObjectCorrupt(
                f"object {digest} in {self.url} has the digest {found}", digest=digest, found=found
            )

    @contextmanager
    def _translated(self, digest: str, *, writing: bool = False) -> Iterator[None]:
        """Errors of the driver as errors of ours; there is no other place that knows drivers."""
        try:
            yield
        except errors.WTBError:
            raise
        except (FileNotFoundError, NotADirectoryError, PermissionError) as e:
            if writing or not isinstance(e, FileNotFoundError):
                raise errors.ConfigurationError(
                    f"objects cannot be stored in {self.url}: {e}", setting="objects_url"
                ) from e
            raise errors.UnknownObject(f"{self.url} has no object {digest}", digest=digest) from e
        except Exception as e:
            raise errors.Unavailable(
                f"object store {self.url} does not answer: {type(e).__name__}: {e}",
                reason="object_store",
            ) from e


class _Backend(Protocol):
    ask_first_from: int
    """From this size on a look whether the object is there costs less than writing it again."""

    async def size(self, key: str) -> int | None: ...
    async def read(self, key: str) -> bytes: ...
    async def write(self, key: str, data: bytes) -> None: ...
    async def upload(self, key: str, path: Path) -> None: ...
    async def download(self, key: str, path: Path) -> None: ...
    def staging(self) -> AbstractContextManager[Path]: ...
    async def aclose(self) -> None: ...


class _Local:
    """A directory. fsspec's local files are neither atomic nor fsynced, so these are our own."""

    ask_first_from = 0

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tmp = root / "tmp"

    async def size(self, key: str) -> int | None:
        path = self.root / key
        try:
            return (await asyncio.to_thread(path.stat)).st_size
        except FileNotFoundError:
            return None

    async def read(self, key: str) -> bytes:
        return await asyncio.to_thread((self.root / key).read_bytes)

    async def write(self, key: str, data: bytes) -> None:
        await asyncio.to_thread(self._write, key, data)

    async def upload(self, key: str, path: Path) -> None:
        await asyncio.to_thread(self._publish, key, path)

    async def download(self, key: str, path: Path) -> None:
        await asyncio.to_thread(shutil.copyfile, self.root / key, path)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        self.tmp.mkdir(parents=True, exist_ok=True)
        yield self.tmp

    async def aclose(self) -> None:
        pass

    def _write(self, key: str, data: bytes) -> None:
        with self.staging() as directory:
            staged = directory / secrets.token_hex(8)
            try:
                staged.write_bytes(data)
                self._publish(key, staged)
            finally:
                staged.unlink(missing_ok=True)

    def _publish(self, key: str, staged: Path) -> None:
        target = self.root / key
        _fsync(staged)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged, target)
        # Another process may have made these and not synced them yet; a clean one costs nothing.
        for directory in (target.parent, target.parent.parent, self.root):
            _fsync(directory)


class _Fsspec:
    """Any other file system: its coroutines where it has them, else its methods in threads."""

    ask_first_from = 1 << 20

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        cls = fsspec.get_filesystem_class(get_protocol(url))
        kwargs = {**cls._get_kwargs_from_urls(url), **options}
        if cls.async_impl:
            kwargs["asynchronous"] = True
        # An instance is bound to its event loop, and its listings would hide others' objects.
        self.fs = cls(skip_instance_cache=True, use_listings_cache=False, **kwargs)
        self.prefix = str(cls._strip_protocol(url)).rstrip("/")

    async def size(self, key: str) -> int | None:
        try:
            return int((await self._call("info", self._path(key)))["size"])
        except FileNotFoundError:
            return None

    async def read(self, key: str) -> bytes:
        return bytes(await self._call("cat_file", self._path(key)))

    async def write(self, key: str, data: bytes) -> None:
        await self._call("pipe_file", self._path(key), data)

    async def upload(self, key: str, path: Path) -> None:
        await self._call("put_file", str(path), self._path(key))

    async def download(self, key: str, path: Path) -> None:
        await self._call("get_file", self._path(key), str(path))

    @contextmanager
    def staging(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="wtb-put-") as directory:
            yield Path(directory)

    async def aclose(self) -> None:
        session = getattr(self.fs, "_s3", None)
        if session is not None:
            await session.close()

    def _path(self, key: str) -> str:
        return f"{self.prefix}/{key}"

    async def _call(self, name: str, *args: Any) -> Any:
        if self.fs.async_impl:
            return await getattr(self.fs, f"_{name}")(*args)
        return await asyncio.to_thread(getattr(self.fs, name), *args)


def _backend(url: str, options: dict[str, Any]) -> _Backend:
    protocol = get_protocol(url)
    if protocol in ("file", "local"):
        path = unquote(urlsplit(url).path) if "://" in url else url
        return _Local(Path(path).resolve())
    if protocol not in fsspec.available_protocols():
        raise errors.ConfigurationError(
            f"objects_url={url!r}: fsspec knows no protocol {protocol!r}", setting="objects_url"
        )
    return _Fsspec(url, options)


def key_of(digest: str) -> str:
    """Where an object lies in the store; refuses what is no SHA-256 in hex."""
    if not _DIGEST.fullmatch(digest):
        raise errors.InvalidRequest(
            f"{digest!r} is not a SHA-256 in hex", field="digest", reason="64 lower-case hex digits"
        )
    return f"blobs/{digest[:2]}/{digest[2:]}"


async def _digest(data: bytes) -> str:
    if len(data) < _OFFLOAD:
        return hashlib.sha256(data).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())


def _hash_file(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _copy_hashed(source: Path, target: Path) -> str:
    sha = hashlib.sha256()
    with source.open("rb") as r, target.open("wb") as w:
        while chunk := r.read(1 << 20):
            sha.update(chunk)
            w.write(chunk)
    return sha.hexdigest()


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
