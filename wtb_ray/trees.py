"""A directory whose files can be kept and brought back: one object for snapshots and restores.

Guarantees: one thing at a time, and never on the event loop. What is known of the files survives in
`stats`, beside the directory, until the machine starts anew: workspace files are not fsynced, so
that after a power failure all of them are read again.
"""

import asyncio
import json
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Final

from wtb_ray import manifests
from wtb_ray.listings import Listers
from wtb_ray.manifests import EMPTY, Entry
from wtb_ray.model import FileTrackingConfig
from wtb_ray.objects import ObjectStore
from wtb_ray.restores import Restored, Restores, Witness
from wtb_ray.scans import Directory, Rules
from wtb_ray.snapshots import Snapshot, Snapshots, listing_of, run

__all__ = ["Restored", "Snapshot", "TrackedTree"]

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class TrackedTree:
    """The tracked files below `root`; `beside` is a directory of the same file system, not below it.

    Work is done in `executor`; `listers`, which trees may share, look at many files.

    Raises:
        InvalidRequest: The configuration names paths or patterns that cannot be meant.
    """

    def __init__(
        self,
        root: Path,
        config: FileTrackingConfig,
        objects: ObjectStore,
        *,
        beside: Path,
        executor: Executor | None = None,
        quota_mb: int | None = None,
        listers: Listers | None = None,
    ) -> None:
        self.root = root
        self._stats = beside / "stats"
        self._objects = objects
        self._executor = executor
        self._config = config
        self._snapshots = Snapshots(root, Rules(config), objects, executor, quota_mb, listers)
        self._restores = Restores(root, objects, self._snapshots, executor, beside)
        self._busy = asyncio.Lock()

    async def snapshot(self) -> Snapshot:
        """Keep the files as they are now. An unchanged tree costs a scan and writes nothing.

        Raises:
            FilesRefused: Something tracked cannot be kept, or changes all the time.
            QuotaExceeded: There are more files or bytes than there may be.
            StorageFull: The object store has no room.
            Unavailable: The object store does not answer.
        """
        async with self._busy:
            return await self._snapshots.take()

    async def restore(self, manifest: str | None, *, witness: Witness | None = None) -> Restored:
        """Make the tracked files those of a manifest; None is the empty tree.

        `witness` is awaited before the journal is closed: what it does not get to record, because
        the process dies, the next restore tells again.

        Raises:
            RestoreRefused: It cannot be done; every file is as it was.
            StorageFull: There is no room for the files to come, or to keep those that are there.
            Unavailable: The object store does not answer; every file is as it was.
        """
        async with self._busy:
            return await self._restores.to(manifest or EMPTY, witness)

    async def save(self) -> None:
        """Write down what is known of the files, for another process to go on from."""
        async with self._busy:
            await run(self._executor, self._write)

    async def load(self) -> None:
        """Take over what was written down, if it is of this boot, store and configuration."""
        async with self._busy:
            found = await run(self._executor, self._read)
            self._snapshots.tree, self._snapshots.generation = found

    def _heading(self) -> dict[str, Any]:
        boot = _BOOT.read_text().strip() if _BOOT.exists() else None
        config = self._config.model_dump_json(include={"tracked_paths", "ignore_patterns"})
        return {"boot": boot, "objects": self._objects.url, "config": config}

    def _write(self) -> None:
        directories = [
            (path, d.listing and (d.listing[0], d.listing[1].hex()), d.mode,
             list(d.files.values()), d.below, list(d.skipped), d.count, d.size, d.entry)
            for path, d in self._snapshots.tree.items()
        ]  # fmt: skip
        partial = self._stats.with_name(f"stats.{secrets.token_hex(4)}")
        written = [self._heading(), directories, self._snapshots.generation]
        partial.write_text(json.dumps(written), "ascii")
        os.replace(partial, self._stats)

    def _read(self) -> tuple[dict[str, Directory], int | None]:
        try:
            heading, directories, *generation = json.loads(self._stats.read_text("ascii"))
        except FileNotFoundError:
            return {}, None
        if heading["boot"] is None or heading != self._heading():
            return {}, None
        tree = {path: _directory(*fields) for path, *fields in directories}
        return tree, generation[0] if generation else None


def copies(stats: Path, root: Path, digest: str) -> Iterator[Path | bytes]:
    """What may have this digest, by what was written down of the tree at `root`.

    The files may have changed since.
    """
    try:
        _, directories, *_ = json.loads(stats.read_text("ascii"))
        tree = {path: _directory(*fields) for path, *fields in directories}
    except (OSError, ValueError, TypeError):
        return
    for here, directory in tree.items():
        for name, (_, entry) in directory.files.items():
            if entry.kind == "file" and entry.value == digest:
                yield root / here / name
        if directory.entry is not None and directory.entry.value == digest:
            paths = (f"{here}/{name}" if here else name for name in directory.below)
            below = [tree[path] for path in paths if path in tree]
            yield manifests.encoded(listing_of(directory, below))


def _directory(
    listing: list[str] | None,
    mode: int,
    files: list[list[Any]],
    below: dict[str, int],
    skipped: list[str],
    count: int,
    size: int,
    entry: list[Any] | None,
) -> Directory:
    known = {
        fields[0]: (tuple(record) if record else None, Entry(*fields)) for record, fields in files
    }
    return Directory(
        listing=(listing[0], bytes.fromhex(listing[1])) if listing else None,
        mode=mode,
        files=known,
        below=below,
        skipped=frozenset(skipped),
        count=count,
        size=size,
        entry=Entry(*entry) if entry else None,
    )
