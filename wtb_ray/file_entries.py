"""Files of a workspace as users see them: in a tree, between two trees, and in the trash."""

from datetime import datetime
from typing import Literal

from wtb_ray.frozen import Frozen


class FileEntry(Frozen):
    """One file, link or directory of a file tree."""

    path: str
    """Relative to the workspace, with `/`; bytes that are no UTF-8 are shown as `\\xNN`."""
    kind: Literal["file", "dir", "link"]
    size: int
    """Bytes; of a directory, of all files below it."""
    mode: int
    """Permission bits."""
    digest: str | None = None
    """SHA-256 of a file's bytes."""
    target: str | None = None
    """Where a link leads."""


class FileChange(Frozen):
    """How one path differs between two file trees."""

    path: str
    change: Literal["added", "removed", "changed"]
    before: FileEntry | None = None
    after: FileEntry | None = None
    diff: str | None = None
    """Unified diff of a text of bearable size, when it was asked for."""


class TrashedFile(Frozen):
    """A file that a restore displaced."""

    restore_id: int
    """The restore that displaced it."""
    entry: FileEntry
    reason: str
    displaced_at: datetime
