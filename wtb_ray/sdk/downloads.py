"""Files of an execution on this machine's disk: each appears complete or not at all, inside one folder.

The bench says what the files are called, so a path that would lead out of the folder, by `..`, a
link or a folder that is one, is refused. A file that is there already is replaced.
"""

import hashlib
import os
import secrets
from pathlib import Path, PurePosixPath
from typing import Any

from wtb_ray import errors
from wtb_ray.file_entries import FileEntry


class Folder:
    """A folder that files are downloaded into."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._root = Path(os.path.abspath(self.path))  # links in it are the user's

    def make(self, entry: FileEntry) -> Path:
        """Make a directory or a link, inside the folder.

        Raises:
            Refused: The path, or where the link leads, is outside of the folder.
        """
        place = self._place(entry)
        if entry.kind == "dir":
            place.mkdir(parents=True, exist_ok=True)
            return place
        target = entry.target or ""
        self._inside(Path(os.path.normpath(place.parent / target)), entry.path)
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(place)
        partial.symlink_to(target)
        partial.replace(place)
        return place

    def download(self, entry: FileEntry) -> "Download":
        """A place for the bytes of a file.

        Raises:
            Refused: The path is outside of the folder.
        """
        return Download(self._place(entry), entry)

    def _place(self, entry: FileEntry) -> Path:
        path = PurePosixPath(entry.path)
        if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in entry.path:
            raise _outside(entry.path)
        place = self._root.joinpath(*path.parts)
        self._inside(place.parent.resolve() / place.name, entry.path, self._root.resolve())
        return place

    def _inside(self, place: Path, path: str, root: Path | None = None) -> None:
        if not place.is_relative_to(root or self._root):
            raise _outside(path)


class Download:
    """One file while it arrives; a context manager that leaves nothing half done behind."""

    def __init__(self, place: Path, entry: FileEntry | None = None) -> None:
        self.place = place
        self._entry = entry
        self._partial = _partial(place)
        self._sha = hashlib.sha256()
        self._file: Any = None

    def __enter__(self) -> "Download":
        self.place.parent.mkdir(parents=True, exist_ok=True)
        self._sha = hashlib.sha256()
        self._file = self._partial.open("wb")
        return self

    def feed(self, chunk: bytes) -> None:
        self._sha.update(chunk)
        self._file.write(chunk)

    def finish(self, etag: str | None) -> None:
        """Put the file in its place.

        Raises:
            ObjectCorrupt: What has arrived is not what was asked for.
        """
        digest = self._entry.digest if self._entry is not None else unquoted(etag)
        check_digest(self.place.name, digest, self._sha.hexdigest())
        self._file.close()
        if self._entry is not None:
            self._partial.chmod(self._entry.mode & 0o777)
        self._partial.replace(self.place)

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._partial.unlink(missing_ok=True)


def unquoted(etag: str | None) -> str | None:
    """The digest in an ETag."""
    return etag.removeprefix("W/").strip('"') if etag else None


def check_digest(name: str, wanted: str | None, found: str) -> None:
    """Refuse bytes that are not those that were asked for.

    Raises:
        ObjectCorrupt: They are not.
    """
    if wanted is not None and wanted != found:
        raise errors.ObjectCorrupt(
            f"{name}: received bytes with the digest {found}, not {wanted}",
            digest=wanted,
            found=found,
        )


def _partial(place: Path) -> Path:
    return place.with_name(f".wtb-{secrets.token_hex(6)}.part")


def _outside(path: str) -> errors.Refused:
    return errors.Refused(
        f"{path!r} leads out of the folder", field="path", reason="outside of the folder"
    )
