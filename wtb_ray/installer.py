"""uv as a subprocess: run to its end or killed with everything it started, its words made errors.

Package indexes, caches and credentials are those of uv's own environment variables and files; what
lies in the current directory is not looked at.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import uv

from wtb_ray import errors

_OURS: Final = {
    "NO_COLOR": "1",
    "UV_NO_PROGRESS": "1",
    "UV_PYTHON_DOWNLOADS": "never",
    "PYTHONDONTWRITEBYTECODE": "1",
}
_NOT_OURS: Final = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH", "UV_SYSTEM_PYTHON")
_FULL: Final = re.compile(r"os error (28|122)\b|No space left on device|Disk quota exceeded")
_NETWORK: Final = re.compile(
    r"network was disabled|error sending request|dns error|tcp connect error|operation timed out"
    r"|connection (reset|refused|closed)|server error \(5\d\d|429 Too Many Requests",
    re.IGNORECASE,
)
_REASONS: Final = (
    ("hash_mismatch", r"[Hh]ash mismatch"),
    ("hash_missing", r"must have a hash"),
    ("no_such_package", r"was not found in the (package registry|provided package locations)"),
    ("no_wheel", r"no wheels? with a matching|doesn't have a source distribution or wheel"),
    ("python_version", r"current Python version"),
    ("no_such_version", r"[Tt]here (is|are) no versions? of|only \S+ (is|are) available"),
    ("versions_conflict", r"No solution found"),
    ("build_failed", r"[Ff]ailed to build|[Bb]uild backend"),
    ("refused_by_index", r"client error \(4\d\d"),
)
"""What uv's words mean, the most telling first."""


class Ended(NamedTuple):
    """How a subprocess ended."""

    code: int
    out: str
    err: str


async def run(command: Sequence[str], *, keep: Sequence[int] = ()) -> Ended:
    """Runs a command from the root directory, in a process group of its own.

    When this is cancelled the whole group is killed, and has ended when it returns.

    Args:
        command: The program and its arguments.
        keep: File descriptors that it inherits: their locks last until it has ended too.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd="/",
        env=_environment(os.environ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=keep,
        start_new_session=True,
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


async def run_uv(arguments: Sequence[str], *, keep: Sequence[int] = ()) -> None:
    """Runs uv.

    Raises:
        EnvironmentFailed: uv refuses, in its words; `reason` says what it is about.
        Unavailable: The index cannot be reached, or uv was killed; again later it may work.
        StorageFull: There is no room left.
    """
    ended = await run([uv.find_uv_bin(), *arguments], keep=keep)
    if ended.code:
        raise failed(ended)


def failed(ended: Ended) -> errors.WTBError:
    """The error that uv's words stand for."""
    words = ended.err.strip()
    words = words[max(words.find("error:"), 0) :]
    flat = " ".join(words.removeprefix("error:").split())
    details: dict[str, Any] = {"field": "environment", "uv": words}
    if _FULL.search(flat):
        return errors.StorageFull(
            f"no room left for an environment: {flat}", **details, reason="full"
        )
    if _NETWORK.search(flat):
        return errors.PackageIndexUnavailable(flat, **details, reason="no_network")
    if ended.code < 0:
        return errors.Unavailable(
            f"uv was ended by signal {-ended.code}", **details, reason="killed"
        )
    found = (reason for reason, pattern in _REASONS if re.search(pattern, flat))
    reason = next(found, "uv")
    return errors.EnvironmentFailed(flat or f"uv ended with {ended.code}", **details, reason=reason)


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    return {**{name: value for name, value in given.items() if name not in _NOT_OURS}, **_OURS}
