"""Which paths a bundle may hold: one rule for those who pack and for those who unpack.

What passes here means the same file below the bundle's folder on every system, and fits on its disk.
"""

import re

MAX_PATH = 1024
"""Bytes of a whole path; what is longer does not fit below a folder on every system."""
MAX_NAME = 255
"""Bytes of one name."""

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
