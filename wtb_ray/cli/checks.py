"""What `wtb doctor` looks at on this machine: each check says OK, WARN or FAIL, and the cure.

A check reads and never changes anything, apart from one file that it writes and removes to see
whether the data directory can be written.
"""

import os
import shutil
import socket
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

import fsspec
import psutil
import psycopg
from packaging.requirements import Requirement

from wtb_ray.model import Frozen
from wtb_ray.settings import Settings

GIB: Final = 1 << 30
DISTRIBUTION: Final = "wtb-ray"
OLDEST_PYTHON: Final = (3, 11)
OLDEST_POSTGRES: Final = 17
MEMORY_WANTED_GIB: Final = 4
DISK_WANTED_GIB: Final = 5
Level = Literal["OK", "WARN", "FAIL"]


class Check(Frozen):
    """The outcome of one check."""

    name: str
    level: Level
    detail: str
    cure: str = ""


def machine(settings: Settings) -> list[Check]:
    """The checks that need no running bench."""
    memory = psutil.virtual_memory()
    return [
        python(sys.version_info[:3]),
        packages(),
        cpus(os.cpu_count() or 1),
        room("memory", memory.available / GIB, MEMORY_WANTED_GIB, "close other programs"),
        data_dir(settings.data_dir),
        objects(settings.objects_url),
        database(settings.database_url),
    ]


def python(version: tuple[int, int, int]) -> Check:
    """Whether the interpreter is new enough."""
    detail = ".".join(map(str, version))
    if version[:2] < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return Check(
            name="python", level="FAIL", detail=detail, cure=f"use Python {oldest} or newer"
        )
    return Check(name="python", level="OK", detail=f"{detail} at {sys.executable}")


def packages() -> Check:
    """Whether the installed versions of what this package needs are those it needs."""
    wrong = []
    for text in metadata.requires(DISTRIBUTION) or []:
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate():
            continue
        try:
            found = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{need.name} is missing")
            continue
        if not need.specifier.contains(found, prereleases=True):
            wrong.append(f"{need.name} {found} is not {need.specifier}")
    if wrong:
        cure = "install wtb-ray again into a fresh environment"
        return Check(name="packages", level="FAIL", detail="; ".join(wrong), cure=cure)
    shown = ", ".join(f"{name} {metadata.version(name)}" for name in ("ray", "langgraph"))
    return Check(name="packages", level="OK", detail=shown)


def cpus(count: int) -> Check:
    """Whether there are enough CPUs for the stack and a runner."""
    if count < 2:
        return Check(
            name="cpus", level="WARN", detail="1 CPU", cure="2 or more start and run faster"
        )
    return Check(name="cpus", level="OK", detail=f"{count} CPUs")


def room(name: str, free: float, wanted: float, cure: str) -> Check:
    """Whether there is enough of something that is counted in GiB; below a quarter it fails."""
    detail = f"{free:.1f} GiB free"
    if free >= wanted:
        return Check(name=name, level="OK", detail=detail)
    level: Level = "WARN" if free >= wanted / 4 else "FAIL"
    return Check(name=name, level=level, detail=f"{detail}, {wanted} GiB wanted", cure=cure)


def data_dir(path: Path) -> Check:
    """Whether the data directory can be written and has room."""
    place = path.resolve()
    existing = next(parent for parent in (place, *place.parents) if parent.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=existing):
            free = shutil.disk_usage(existing).free / GIB
    except OSError as e:
        detail = f"{place} cannot be written: {e.strerror}"
        return Check(name="disk", level="FAIL", detail=detail, cure="set WTB_DATA_DIR elsewhere")
    found = room("disk", free, DISK_WANTED_GIB, "free some space or set WTB_DATA_DIR elsewhere")
    return found.model_copy(update={"detail": f"{found.detail} at {place}"})


def port(name: str, number: int, option: str) -> Check:
    """Whether the stack could listen on a port of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError as e:
            cure = f"end what listens there, or use another: wtb up {option} PORT"
            detail = f"{number} is taken: {e.strerror}"
            return Check(name=f"{name} port", level="FAIL", detail=detail, cure=cure)
    return Check(name=f"{name} port", level="OK", detail=f"{number} is free")


def ports(settings: Settings) -> list[Check]:
    """The ports of a stack that is not running yet."""
    return [
        port("http", settings.http_port, "--http-port"),
        port("grpc", settings.grpc_port, "--grpc-port"),
        port("dashboard", settings.dashboard_port, "--dashboard-port"),
    ]


def database(url: str | None) -> Check:
    """Whether the database answers and is new enough; without a URL it comes with the stack."""
    if url is None:
        return Check(name="database", level="OK", detail="embedded: starts with the stack")
    try:
        with psycopg.connect(url, connect_timeout=5) as conn:
            number = conn.info.server_version // 10_000
            where = f"{conn.info.host}:{conn.info.port}/{conn.info.dbname}"
    except (psycopg.Error, UnicodeError) as e:
        reason = " ".join(str(e).split())
        cure = "start it, or correct WTB_DATABASE_URL"
        return Check(name="database", level="FAIL", detail=reason, cure=cure)
    detail = f"Postgres {number} at {where}"
    if number < OLDEST_POSTGRES:
        cure = f"use Postgres {OLDEST_POSTGRES} or newer"
        return Check(name="database", level="FAIL", detail=detail, cure=cure)
    return Check(name="database", level="OK", detail=detail)


def objects(url: str | None) -> Check:
    """Whether the object store can be reached; without a URL it lies in the data directory."""
    if url is None:
        return Check(name="objects", level="OK", detail="in the data directory")
    try:
        filesystem, root = fsspec.url_to_fs(url)
        exists = bool(filesystem.exists(root))
    except (OSError, ValueError, ImportError) as e:
        reason = " ".join(f"{type(e).__name__}: {e}".split())
        cure = "correct WTB_OBJECTS_URL and its credentials"
        return Check(name="objects", level="FAIL", detail=f"{url}: {reason}", cure=cure)
    detail = url if exists else f"{url} (empty so far)"
    return Check(name="objects", level="OK", detail=detail)
