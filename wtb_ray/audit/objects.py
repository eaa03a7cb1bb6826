"""The second copy of every seal, in the object store under its number.

An object holds the seal and the index of its events, so that a place in the log can be named
instead of a range. It is written once: one that is there stays as it is, whatever it holds.
"""

import asyncio
import base64
import binascii
import os
import re
import secrets
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

import fsspec
import orjson
from fsspec.utils import get_protocol
from pydantic import ValidationError

from wtb_ray import errors
from wtb_ray.model import canonical
from wtb_ray.seals import Seal, digest_of

Answer = TypeVar("Answer")

FOLDER: Final = "audit"
AT_ONCE: Final = 16
_NAME = re.compile(r"seal-([1-9][0-9]{0,18})\.json")


class SealObject(NamedTuple):
    """A stored seal."""

    seal: Seal | None
    """None: the object is there, but holds no seal."""
    records: bytes | None
    """The index of its events, if it is the one that the seal is about."""


class SealObjects:
    """Seals in the object store at a URL; belongs to one event loop."""

    def __init__(self, url: str):
        self.url = url
        self._files = _files(url)
        self._room = asyncio.Semaphore(AT_ONCE)

    async def get(self, number: int) -> SealObject | None:
        """The stored seal of this number; None if there is none.

        Raises:
            Unavailable: The object store does not answer.
        """
        async with self._room:
            data = await self._try(self._files.read(_name(number)))
        return None if data is None else _parsed(data)

    async def get_many(self, numbers: Sequence[int]) -> dict[int, SealObject]:
        """Those of these numbers that are there."""
        found = await asyncio.gather(*map(self.get, numbers))
        return {n: o for n, o in zip(numbers, found, strict=True) if o is not None}

    async def put(self, seal: Seal, records: bytes | None) -> bool:
        """Stores a seal unless its number is taken; whether this seal is the one stored now."""
        stored = await self.get(seal.number)
        if stored is None:
            body = {
                "seal": seal.model_dump(),
                "index": None if records is None else base64.b64encode(records).decode(),
            }
            data = canonical(body).encode()
            await self._try(self._files.write(_name(seal.number), data), writing=True)
            stored = await self.get(seal.number)
        return stored is not None and stored.seal == seal

    async def numbers(self, first: int) -> list[int]:
        """The numbers from `first` on that there are objects of."""
        names = await self._try(self._files.names()) or []
        found = (int(m[1]) for name in names if (m := _NAME.fullmatch(name)))
        return sorted(number for number in found if number >= first)

    async def aclose(self) -> None:
        await self._files.aclose()

    async def __aenter__(self) -> "SealObjects":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def _try(self, work: Awaitable[Answer], *, writing: bool = False) -> Answer | None:
        """What the driver gives; None where there is nothing to read."""
        try:
            return await work
        except Exception as e:
            if isinstance(e, FileNotFoundError) and not writing:
                return None
            raise errors.Unavailable(
                f"object store {self.url} does not answer: {type(e).__name__}: {e}",
                reason="object_store",
            ) from e


def _name(number: int) -> str:
    return f"seal-{number}.json"


def _parsed(data: bytes) -> SealObject:
    try:
        body = orjson.loads(data)
        seal = Seal.model_validate(body["seal"])
        records = base64.b64decode(body["index"] or "", validate=True)
    except (ValueError, TypeError, KeyError, ValidationError, binascii.Error):
        return SealObject(None, None)
    return SealObject(seal, records if digest_of(records) == seal.digest else None)


class _Local:
    """A directory; a file appears complete and durable, or not at all, and is never replaced."""

    def __init__(self, root: Path):
        self._folder = root / FOLDER

    async def read(self, name: str) -> bytes:
        return await asyncio.to_thread((self._folder / name).read_bytes)

    async def write(self, name: str, data: bytes) -> None:
        await asyncio.to_thread(self._write, name, data)

    async def names(self) -> list[str]:
        return await asyncio.to_thread(os.listdir, self._folder)

    async def aclose(self) -> None:
        pass

    def _write(self, name: str, data: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        staged = self._folder / f".{secrets.token_hex(8)}"
        try:
            with staged.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(staged, self._folder / name)
            except FileExistsError:
                return
        finally:
            staged.unlink(missing_ok=True)
        for directory in (self._folder, self._folder.parent):
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


class _Fsspec:
    """Any other file system: its coroutines where it has them, else its methods in threads."""

    def __init__(self, url: str):
        cls = fsspec.get_filesystem_class(get_protocol(url))
        kwargs = dict(cls._get_kwargs_from_urls(url))
        if cls.async_impl:
            kwargs["asynchronous"] = True
        self._fs = cls(skip_instance_cache=True, use_listings_cache=False, **kwargs)
        self._folder = f"{str(cls._strip_protocol(url)).rstrip('/')}/{FOLDER}"

    async def read(self, name: str) -> bytes:
        return bytes(await self._call("cat_file", f"{self._folder}/{name}"))

    async def write(self, name: str, data: bytes) -> None:
        await self._call("pipe_file", f"{self._folder}/{name}", data)

    async def names(self) -> list[str]:
        paths = await self._call("ls", self._folder, False)
        return [str(path).rpartition("/")[2] for path in paths]

    async def aclose(self) -> None:
        session = getattr(self._fs, "_s3", None)
        if session is not None:
            await session.close()

    async def _call(self, name: str, *args: Any) -> Any:
        if self._fs.async_impl:
            return await getattr(self._fs, f"_{name}")(*args)
        return await asyncio.to_thread(getattr(self._fs, name), *args)


def _files(url: str) -> _Local | _Fsspec:
    protocol = get_protocol(url)
    if protocol in ("file", "local"):
        path = unquote(urlsplit(url).path) if "://" in url else url
        return _Local(Path(path).resolve())
    return _Fsspec(url)
