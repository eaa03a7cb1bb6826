"""What happens to files and stored objects."""

from typing import Literal

from wtb_ray.events.base import Event


class FilesRestored(Event):
    type: Literal["files.restored"] = "files.restored"
    manifest: str
    restored: int
    removed: int
    displaced: str | None
    """Manifest of what was there before; None when there was nothing."""
    reason: str


class TrashRestored(Event):
    type: Literal["trash.restored"] = "trash.restored"
    restore_id: int
    paths: list[str]
    manifest: str


class ObjectsCollected(Event):
    type: Literal["objects.collected"] = "objects.collected"
    collection: int
    marked: int
    """Objects that can be reached."""
    swept: int
    swept_bytes: int


class ObjectsDamaged(Event):
    type: Literal["objects.damaged"] = "objects.damaged"
    digest: str
    reason: str


class ObjectsRepaired(Event):
    type: Literal["objects.repaired"] = "objects.repaired"
    digest: str
    source: str
