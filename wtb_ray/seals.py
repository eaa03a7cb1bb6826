"""Seals over ranges of the event log: what they are made of and how they are checked; pure.

A seal covers the events behind one cursor up to another. Its digest is taken of an index with one
record for each event: where it stands and the SHA-256 of all of its columns. Its chain value is
taken of everything in it, the chain value of the seal before included, and signed with a key that
is not where the log is. So an event, a seal or an order that changes later no longer fits, and who
has no key can make no seal that does.
"""

import hashlib
import hmac
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import orjson
from pydantic import Field

from wtb_ray.model import Frozen, canonical

COLUMNS: Final = (
    "xid",
    "seq",
    "at",
    "type",
    "project",
    "execution_id",
    "batch_id",
    "actor",
    "payload",
)
"""Every column of an event, in the order in which it is written down."""

RECORD: Final = struct.Struct(">Qq32s")
HEX: Final = r"^[0-9a-f]{64}$"

Row = tuple[Any, ...]
"""An event's columns: `seq` is a number, the others are text or null."""


class Place(NamedTuple):
    """A place in the log; unlike a cursor it can be one where no event belongs."""

    xid: int
    seq: int

    def __str__(self) -> str:
        return f"{self.xid}.{self.seq}"

    @classmethod
    def parse(cls, text: str) -> "Place":
        xid, _, seq = text.partition(".")
        return cls(int(xid), int(seq))


START: Final = Place(0, 0)
LOWEST: Final = Place(0, -(1 << 63))
"""Before everything that the table could hold."""


class Seal(Frozen):
    """One seal. Times are text, as the database writes them."""

    number: int
    after: str
    """Cursor of the last event of the seal before; exclusive."""
    to: str
    """Cursor of its last event."""
    events: int
    digest: str
    """SHA-256 of the index of its events."""
    previous: str
    """Chain value of the seal before; empty for the first."""
    sealed_at: str
    key_id: str
    chain: str = Field(default="")
    """SHA-256 of all fields above."""
    mac: str = Field(default="")
    """HMAC-SHA256 of the chain value."""

    def chained(self) -> str:
        """The chain value that fits the other fields."""
        return _sha(canonical(self.model_dump(exclude={"chain", "mac"})).encode())


def place_of(row: Row) -> Place:
    return Place(int(row[0]), row[1])


def record(row: Row) -> bytes:
    """The record of an event: where it stands, and the digest of the JSON array of its columns."""
    return RECORD.pack(int(row[0]), row[1], hashlib.sha256(orjson.dumps(row)).digest())


def index(rows: Iterable[Row]) -> bytes:
    """The records of events, one behind the other."""
    return b"".join(map(record, rows))


def records(index: bytes) -> Iterator[tuple[Place, bytes]]:
    """The places and digests in an index."""
    for xid, seq, sha in RECORD.iter_unpack(index):
        yield Place(xid, seq), sha


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_of(index: bytes) -> str:
    """What a seal says about its events."""
    return _sha(index)


class Keys:
    """The key that signs, and earlier ones that only check."""

    def __init__(self, secrets: Sequence[bytes]):
        self._by_id = {_key_id(secret): secret for secret in secrets}

    @property
    def signing(self) -> str:
        """The id of the key that signs."""
        return next(iter(self._by_id))

    def knows(self, key_id: str) -> bool:
        return key_id in self._by_id

    def sign(self, seal: Seal) -> Seal:
        """The seal with its chain value and the MAC of the key that it names."""
        chain = seal.chained()
        return seal.model_copy(update={"chain": chain, "mac": self._mac(seal.key_id, chain)})

    def authentic(self, seal: Seal) -> bool:
        """Whether somebody with one of the keys made exactly this seal."""
        return (
            seal.key_id in self._by_id
            and hmac.compare_digest(seal.chain.encode(), seal.chained().encode())
            and hmac.compare_digest(seal.mac.encode(), self._mac(seal.key_id, seal.chain).encode())
        )

    def _mac(self, key_id: str, chain: str) -> str:
        return hmac.new(self._by_id[key_id], chain.encode(), hashlib.sha256).hexdigest()


def _key_id(secret: bytes) -> str:
    """A name for the key that tells nothing about it."""
    return hmac.new(secret, b"wtb-ray audit key", hashlib.sha256).hexdigest()[:16]
