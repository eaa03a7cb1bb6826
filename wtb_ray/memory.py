"""How much memory this process has, and its host: a container's limit is its host's size.

Numbers are bytes unless a name says MiB.
"""

from pathlib import Path
from typing import Final, Literal, NamedTuple

import psutil

MIB: Final = 1 << 20
CGROUPS: Final = (
    # limit, use, and what of the use is only cache
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
ROOT: Final = Path("/sys/fs/cgroup")
DEFAULT_PART: Final = 0.5
"""Of its host, what a process may have when nothing else is said."""


class Host(NamedTuple):
    """The memory of a host, or of the container that is one."""

    total: int
    free: int
    """What processes can still get."""


class Shortage(NamedTuple):
    """Whose memory there is too little of, and the numbers in words."""

    whose: Literal["process", "host"]
    reason: str


def host(root: Path = ROOT) -> Host:
    """The memory of the machine, or what the container that this runs in is given of it."""
    machine = psutil.virtual_memory()
    for limit_name, used_name, cache_name in CGROUPS:
        limit = _number(root / limit_name)
        if limit is not None and limit < machine.total:
            used = (_number(root / used_name) or 0) - _cached(root / limit_name, cache_name)
            return Host(limit, min(machine.available, max(0, limit - used)))
    return Host(machine.total, machine.available)


def shortage(process: psutil.Process, most_mib: int | None, part_free: float) -> Shortage | None:
    """What a process is short of, or None.

    Args:
        process: The one.
        most_mib: MiB that it may have; None: half of the host.
        part_free: The part of the host that is to stay free.
    """
    there, used = host(), process.memory_info().rss
    most = there.total * DEFAULT_PART if most_mib is None else most_mib * MIB
    if used > most:
        return Shortage("process", f"the process has {used // MIB} MiB of {most // MIB:.0f}")
    if there.free < there.total * part_free:
        total, kept = there.total // MIB, there.total * part_free // MIB
        return Shortage(
            "host", f"the host has {there.free // MIB} of {total} MiB left, {kept:.0f} stay free"
        )
    return None


def _number(path: Path) -> int | None:
    """What a file says; None where there is none, or it says that there is no limit."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _cached(limit: Path, name: str) -> int:
    try:
        lines = (limit.parent / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)
