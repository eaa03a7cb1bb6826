"""Which paths a bundle may hold, and how they stand in it: one rule for all who pack and unpack.

What passes here means the same file below the bundle's folder on every system, and fits on its disk.
"""

import re
import stat
import zipfile

MAX_PATH = 1024
"""Bytes of a whole path; what is longer does not fit below a folder on every system."""
MAX_NAME = 255
"""Bytes of one name."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def fault(path: str) -> str | None:
    """Why a bundle cannot hold this path, None if it can."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or _DRIVE.match(path):
        return "it leaves the bundle's folder"
    if "\\" in path or _CONTROL.search(path):
        return "it has a backslash or a control character"
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if len(encoded) > MAX_PATH or any(len(part.encode()) > MAX_NAME for part in parts):
        return f"it is longer than {MAX_PATH} bytes, or a name in it than {MAX_NAME}"
    return None


def add(archive: zipfile.ZipFile, name: str, content: bytes, *, executable: bool) -> None:
    """Adds a file, so that equal files make equal bytes wherever they are packed."""
    info = zipfile.ZipInfo(name, date_time=_EPOCH)
    info.create_system = 3  # unix, on every system
    info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
    archive.writestr(info, content)
