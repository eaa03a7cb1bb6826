"""Requests and answers about stored objects: collected, read again, held, and what there is."""

from datetime import datetime
from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveInt

from wtb_ray.frozen import Frozen
from wtb_ray.states import CollectionStatus


class CollectRequest(Frozen):
    """Body of `POST files/collect`."""

    dry_run: bool = True
    """Only count what would be deleted."""
    grace_s: NonNegativeFloat | None = None
    """What was written later than so many seconds ago stays; absent: as the settings say."""


class CollectionReport(Frozen):
    """What a garbage collection found and did."""

    id: int | None = None
    dry_run: bool
    status: CollectionStatus
    grace_s: float
    done: float
    """The share of the present stage."""
    marked: int = 0
    """Objects that rows or leases reach."""
    leased: int = 0
    """Those of them that only leases reach."""
    listed: int = 0
    """Objects that are stored."""
    listed_bytes: int = 0
    garbage: int = 0
    """Those that can go."""
    garbage_bytes: int = 0
    young: int = 0
    """Those that nothing reaches and that were written within the grace."""
    pardoned: int = 0
    """Those that could have gone and were needed again meanwhile."""
    swept: int = 0
    swept_bytes: int = 0
    damaged: dict[str, str] = Field(default_factory=dict)
    """Directory objects that cannot be read, with the reason; the first hundred."""
    waits_for: list[str] = Field(default_factory=list)
    """Writers that began before the choice was made; it goes on when they have ended."""
    error: str | None = None
    started_at: datetime | None = None
    duration_s: float | None = None
    """Null while it is at work."""


class RehashRequest(Frozen):
    """Body of `POST files/rehash`."""

    sample: PositiveInt | None = None
    """How many objects, chosen at random; absent: all."""
    digests: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] | None = None
    """These objects, missing ones too."""
    repair: bool = False
    """Replace damaged ones from other copies."""


class RehashReport(Frozen):
    """What reading objects again has found."""

    checked: int = 0
    bytes: int = 0
    damaged: dict[str, str] = Field(default_factory=dict)
    """Objects whose bytes are not theirs, or that are missing, with the reason."""
    repaired: dict[str, str] = Field(default_factory=dict)
    """Those of them that are whole again, with what they were repaired from."""
    duration_s: float = 0.0


class DamagedObject(Frozen):
    """An object that is damaged or missing."""

    digest: str
    reason: str
    found_at: datetime


class ObjectHold(Frozen):
    """A lease on stored objects."""

    holder: str
    generation: int | None
    """Of a writer; null: a reader's."""
    reads: int
    """Trees and objects that it names."""
    created_at: datetime


class FilesStats(Frozen):
    """Answer of `GET files/stats`."""

    generation: int
    """How often objects may have been deleted, from 1 on."""
    commits: int
    """Different trees that checkpoints name and that were weighed."""
    commit_files: int
    """Files in all of them."""
    damaged: list[DamagedObject]
    """The first hundred; empty is well."""
    holds: list[ObjectHold]
    """The first hundred, oldest first."""
    collections: list[CollectionReport]
    """The newest ten, newest first."""


class CommitEntry(Frozen):
    """The files that belong to a checkpoint, or to a later restore point at it."""

    checkpoint_id: str
    thread_id: str
    step: int
    seq: int
    """-1: kept with the checkpoint; from 0 on: with a restore point at it."""
    reason: str
    """What made it: `loop`, `interrupt`, `pause`, `trash`, ..."""
    manifest: str
    files: int | None
    """Files and links in the tree; null with `bytes`: its objects cannot be read."""
    bytes: int | None
    created_at: datetime
