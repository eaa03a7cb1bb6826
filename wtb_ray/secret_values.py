"""Secrets: values that user code asks for by name, and that stand nowhere else.

A secret is an environment variable of the process, else a file of that name in `WTB_SECRETS_DIR`
(`/run/secrets`, where Docker and Kubernetes mount them, when unset). What was asked for is known to
the process from then on: it is blacked out in errors and in what the process prints or logs, and
refused in state.
"""

import json
import os
import re
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TextIO

from wtb_ray import errors

OWN: Final = ("WTB_", "RAY_", "LANGGRAPH_STRICT_MSGPACK", "PYTHONHOME", "PYTHONPATH", "LD_PRELOAD")
"""Beginnings of variables that are the bench's own."""
DIRECTORY_ENV: Final = "WTB_SECRETS_DIR"
DIRECTORY: Final = "/run/secrets"
SHORTEST: Final = 4
"""A value that is shorter is in too much by chance to be blacked out."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")

_lock: Final = threading.Lock()
_known: Final[dict[str, str]] = {}


def secret(name: str) -> str:
    """The value of a secret, from the environment or a mounted file; line ends at its end do not count.

    Raises:
        SecretMissing: It is in no place where secrets are looked for, or is empty.
        InvalidRequest: The name is not that of a secret.
    """
    if not _NAME.fullmatch(name) or name.startswith(OWN):
        raise errors.InvalidRequest(
            f"{name!a} is not the name of a secret", field="name", reason="letters, digits and _"
        )
    value = os.environ.get(name) or _mounted(name)
    if not value:
        raise errors.SecretMissing(
            f"secret {name} is neither in the environment nor a file in {_directory()}",
            field="secrets",
            secret=name,
            reason="missing",
        )
    _remember(name, value)
    return value


def provide(names: Iterable[str]) -> None:
    """Puts secrets into the environment of this process, where libraries look for them.

    Raises:
        SecretMissing: One is in no place where secrets are looked for; names it.
    """
    for name in names:
        os.environ[name] = secret(name)


def blacked_out(text: str) -> str:
    """The text without the values of secrets that this process has asked for."""
    for value, name in list(_known.items()):
        if value in text:
            text = text.replace(value, f"<secret {name}>")
    return text


def found_in(data: bytes) -> str | None:
    """The name of a secret whose value is in the bytes, as UTF-8 or as in JSON, if there is one."""
    for value, name in list(_known.items()):
        if value.encode() in data or json.dumps(value)[1:-1].encode() in data:
            return name
    return None


def _directory() -> Path:
    return Path(os.environ.get(DIRECTORY_ENV) or DIRECTORY)


def _mounted(name: str) -> str | None:
    try:
        return (_directory() / name).read_text("utf-8").rstrip("\r\n")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as e:
        raise errors.SecretMissing(
            f"secret {name} cannot be read from {_directory()}: {e}",
            field="secrets",
            secret=name,
            reason=type(e).__name__,
        ) from None


def _remember(name: str, value: str) -> None:
    if len(value) < SHORTEST:
        return
    with _lock:
        if not _known:
            sys.stdout, sys.stderr = _BlackingOut(sys.stdout), _BlackingOut(sys.stderr)
        _known[value] = name
        for line in value.splitlines():  # a key of several lines is printed line by line
            if len(line) >= 16:
                _known[line] = name


class _BlackingOut:
    """A stream that writes no secret; all else is that of the stream below."""

    def __init__(self, below: TextIO) -> None:
        self._below = below

    def write(self, text: str) -> int:
        self._below.write(blacked_out(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)
