"""The key of the seals: from the settings, or from a file that its owner alone can read.

It is never where the seals are: not in the database, not in the object store, in no event, no log.
"""

import os
import secrets
from pathlib import Path
from typing import Final

from wtb_ray import errors
from wtb_ray.seals import Keys
from wtb_ray.settings import Settings

FILE: Final = "audit.key"


def read_keys(settings: Settings) -> Keys:
    """The keys of the settings, else that of the file; none when there is no file yet.

    Raises:
        ConfigurationError: The file cannot be read or holds no key.
    """
    if settings.audit_key is not None:
        return Keys([key.encode() for key in settings.audit_keys()])
    path = settings.data_dir / FILE
    try:
        return Keys([_content(path)])
    except FileNotFoundError:
        return Keys([])
    except OSError as e:
        raise _unusable(path, e.strerror or type(e).__name__) from e


def make_keys(settings: Settings) -> Keys:
    """The keys, made with their file on the first call; of several callers at once one makes it.

    Raises:
        ConfigurationError: The file cannot be made or read.
    """
    path = settings.data_dir / FILE
    if settings.audit_key is None and not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _make(path)
        except OSError as e:
            raise _unusable(path, e.strerror or type(e).__name__) from e
    return read_keys(settings)


def _make(path: Path) -> None:
    """Appears complete or not at all, and never in the place of another."""
    staged = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{secrets.token_hex(32)}\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(staged, path)
        except FileExistsError:
            return
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        staged.unlink(missing_ok=True)


def _content(path: Path) -> bytes:
    key = path.read_bytes().strip()
    if len(key) < Settings.AUDIT_KEY_MIN:
        raise _unusable(path, "it holds no key")
    return key


def _unusable(path: Path, reason: str) -> errors.ConfigurationError:
    return errors.ConfigurationError(
        f"the audit key {path} cannot be used: {reason}", field="audit_key", reason=reason
    )
