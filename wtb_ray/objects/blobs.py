"""The form in which objects are stored, and the way there and back in bounded memory.

Stored bytes that begin with zstd's magic number are always one compressed frame, all others are the
plain bytes: content that itself begins with the magic number is always wrapped. The digest is that
of the plain bytes. Never knows where the bytes lie.
"""

import errno
import hashlib
import io
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple, Protocol, cast

import zstandard

from wtb_ray import errors

MAGIC = b"\x28\xb5\x2f\xfd"
CHUNK = 1 << 20
SMALL = 8 << 20
"""Files up to this size are stored from memory."""

_LEVEL = 1
_WINDOW = 8 << 20
"""A frame that asks for more memory than this is not ours."""
_SAMPLES, _SAMPLE = 8, 64 << 10
_WORTH = 0.97
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def key_of(digest: str) -> str:
    """Where an object lies in the store; refuses what is no SHA-256 in hex."""
    if not _DIGEST.fullmatch(digest):
        raise errors.InvalidRequest(
            f"{digest!r} is not a SHA-256 in hex", field="digest", reason="64 lower-case hex digits"
        )
    return f"blobs/{digest[:2]}/{digest[2:]}"


class Stored(NamedTuple):
    """An object as the store lists it."""

    digest: str
    size: int
    """Of its stored form, in bytes."""
    modified: float
    """When it was written last: seconds since 1970, by the store's own clock."""


def digest_of_key(folder: str, name: str) -> str | None:
    """The digest of the object `blobs/{folder}/{name}`; None where that is none of ours."""
    digest = folder + name
    return digest if len(folder) == 2 and _DIGEST.fullmatch(digest) else None


def no_room(error: OSError, path: object) -> errors.StorageFull | None:
    """The typed error if `error` says that a file system has no room left."""
    if error.errno not in _NO_ROOM:
        return None
    return errors.StorageFull(
        f"no room left to write {path}: {error.strerror}", path=str(path), reason=error.strerror
    )


def created(path: str) -> BinaryIO:
    """A new file; its directory is made where it is missing."""
    try:
        return Path(path).open("xb")
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return Path(path).open("xb")


@dataclass(frozen=True)
class Blob:
    """A small object in its stored form."""

    digest: str
    stored: bytes


def encoded(data: bytes) -> bytes:
    """The stored form: compressed where that is smaller."""
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(data)
    return packed if data.startswith(MAGIC) or len(packed) < len(data) else data


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Source:
    """A file on its way out, read once: `digest` and `size` are those of what went by."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._sha = hashlib.sha256()
        self._packed = _worth_packing(file)
        self.size = 0

    @property
    def digest(self) -> str:
        return self._sha.hexdigest()

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size if size > 0 else CHUNK)
        self._sha.update(data)
        self.size += len(data)
        return data

    def pieces(self) -> Iterator[bytes]:
        """The stored form in pieces of at most `CHUNK`."""
        reader: _Readable = self
        if self._packed:
            compressor = zstandard.ZstdCompressor(level=_LEVEL)
            reader = compressor.stream_reader(cast(IO[bytes], self), read_size=CHUNK, closefd=False)
        while piece := reader.read(CHUNK):
            yield piece


def _worth_packing(file: BinaryIO) -> bool:
    """Whether a large file is compressed: its beginning and a few samples decide."""
    size = os.fstat(file.fileno()).st_size
    plain, packed = 0, 0
    for number in range(_SAMPLES):
        file.seek(size * number // _SAMPLES)
        sample = file.read(_SAMPLE)
        if number == 0 and sample.startswith(MAGIC):
            plain, packed = 1, 0
            break
        plain += len(sample)
        packed += len(zstandard.ZstdCompressor(level=_LEVEL).compress(sample))
    file.seek(0)
    return packed < plain * _WORTH


class Incoming:
    """One object on its way in: takes its stored bytes, verifies, and gives the plain ones.

    They go to `target`, which appears complete or not at all, or without one to `data`; with
    `keep` off they go nowhere, only their number is counted in `size`.
    """

    def __init__(
        self,
        digest: str,
        target: Path | None = None,
        mode: int | None = None,
        *,
        durable: bool = False,
        keep: bool = True,
    ):
        key_of(digest)
        self.digest = digest
        self.data = b""
        self.size = 0
        self._keep = keep
        self._target = None if target is None else os.fspath(target)
        self._mode, self._durable = mode, durable
        self._partial: str | None = None
        self._out: BinaryIO = io.BytesIO()

    def receive(self, pieces: Iterable[bytes]) -> None:
        """Everything at once, for whom the pieces come without waiting."""
        try:
            self.begin()
            for piece in pieces:
                self.write(piece)
            self.finish()
        finally:
            self.abandon()

    def begin(self) -> None:
        """Start, or start again after `abandon`."""
        self._sha = hashlib.sha256()
        self._head, self._decode = b"", False
        self._frame: zstandard.ZstdDecompressionWriter | None = None
        self.size = 0
        if self._target is None:
            self._out = io.BytesIO()
            return
        # Not from the target's name, which may be as long as a name can be.
        folder = os.path.dirname(self._target)
        self._partial = os.path.join(folder, f".wtb-{secrets.token_hex(8)}")
        with self._room():
            self._out = created(self._partial)

    def write(self, piece: bytes) -> None:
        """Take stored bytes; any piece size will do."""
        if not self._decode:
            self._head += piece
            if len(self._head) < len(MAGIC):
                return
            piece = self._start()
        if self._frame is None:
            self._plain(piece)
            return
        try:
            self._frame.write(piece)
        except zstandard.ZstdError as e:
            raise self._corrupt(f"a damaged frame: {e}") from e

    def finish(self) -> None:
        """Verify what has come and let it appear."""
        if not self._decode:
            self._plain(self._start())
        if (found := self._sha.hexdigest()) != self.digest:
            raise self._corrupt(f"bytes with the digest {found}")
        if isinstance(self._out, io.BytesIO):
            self.data = self._out.getvalue()
            return
        assert self._partial is not None
        assert self._target is not None
        with self._room():
            self._out.flush()
            if self._mode is not None:
                os.fchmod(self._out.fileno(), self._mode)
            if self._durable:
                os.fsync(self._out.fileno())
            self._out.close()
            os.replace(self._partial, self._target)
        self._partial = None

    def abandon(self) -> None:
        """Leave nothing behind but `data`; after `finish` this only frees memory."""
        self._frame = None
        with suppress(OSError):  # what could not be written cannot be flushed either
            self._out.close()
        if self._partial is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._partial)
            self._partial = None

    def _start(self) -> bytes:
        self._decode, head = True, self._head
        self._head = b""
        if head.startswith(MAGIC):
            decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
            self._frame = decompressor.stream_writer(
                cast(IO[bytes], _Sink(self._plain)), write_size=CHUNK, closefd=False
            )
        return head

    def _plain(self, data: bytes) -> None:
        self._sha.update(data)
        self.size += len(data)
        if self._keep:
            with self._room():
                self._out.write(data)

    def _corrupt(self, what: str) -> errors.ObjectCorrupt:
        return errors.ObjectCorrupt(
            f"object {self.digest} is damaged: the store holds {what}",
            digest=self.digest,
            reason=what,
        )

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            if full := no_room(e, self._target):
                raise full from e
            raise


class _Sink:
    """What the decompressor writes into."""

    def __init__(self, take: Callable[[bytes], None]):
        self._take = take

    def write(self, data: bytes, /) -> int:
        self._take(data)
        return len(data)
