"""What tests of built environments stand on: wheels in a bundle, and a cache over them."""

import asyncio
import io
import subprocess
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from wtb_ray.actors.venvs import VenvCache
from wtb_ray.db import Database
from wtb_ray.environment import EnvSpec
from wtb_ray.events import Cursor, EventRow
from wtb_ray.objects import ObjectStore
from wtb_ray.settings import Settings
from wtb_ray.store import Store

LIGHT = ("packaging",)
"""Importing the bench's runner in every environment of every test would take most of the time."""


class VenvBench:
    """A host's data directory, and caches on it."""

    def __init__(self, data_dir: Path, url: str):
        self.data_dir = data_dir
        self.url = url

    def settings(self, **more: Any) -> Settings:
        return Settings(data_dir=self.data_dir, **more)

    @property
    def root(self) -> Path:
        return self.settings().venvs()

    @asynccontextmanager
    async def cache(self, host: str = "here", **settings: Any) -> AsyncIterator[VenvCache]:
        cache = VenvCache(self.settings(**settings), self.url, host, imports=LIGHT)
        try:
            yield cache
        finally:
            await cache.close()

    async def bundle(self, folder: Path) -> str:
        """Stores a folder as a project's; gives its digest."""
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    name = str(path.relative_to(folder))
                    archive.writestr(zipfile.ZipInfo(name), path.read_bytes())
        async with ObjectStore(self.settings().objects()) as objects:
            return await objects.put(data.getvalue())

    def directories(self) -> list[str]:
        """Names of what is usable or was."""
        return sorted(p.name for p in self.root.iterdir() if not p.name.startswith("."))

    def leftovers(self) -> list[str]:
        """What a crash would have left."""
        places = (self.root / name for name in (".tmp", ".trash", ".locks"))
        return sorted(str(path) for place in places if place.is_dir() for path in place.iterdir())


async def happened(db: Database, *types: str) -> list[EventRow]:
    """The events of these types, or all."""
    return await Store(db).events.read(Cursor.START, 1000, types=types or None)


def alpha(version: str = "1.0", **more: Any) -> EnvSpec:
    return EnvSpec(packages=(f"alpha=={version}",), find_links=("wheels",), **more)


async def imported(python: str | None, module: str = "alpha") -> str:
    """The version of a module as an interpreter has it."""
    assert python is not None
    command = [python, "-I", "-c", f"import {module}; print({module}.VERSION)"]
    run = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=True
    )
    return run.stdout.strip()
