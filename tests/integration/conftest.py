"""Fixtures that more than one module of these tests uses."""

from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.integrity_bench import made_world
from tests.integration.store_bench import StoreBench
from tests.venv_bench import VenvBench
from tests.wheels import make_wheel, no_index
from wtb_ray.db import Database

__all__ = ["made_world"]


@pytest.fixture
def host(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> VenvBench:
    """A host without environments, and a uv that asks no index."""
    for name, value in no_index(tmp_path).items():
        monkeypatch.setenv(name, value)
    return VenvBench(tmp_path / "data", url)


@pytest_asyncio.fixture
async def wheels_bundle(host: VenvBench, tmp_path: Path) -> str:
    """A project with wheels of its own, which lie in `tmp_path / "project"` too."""
    wheels = tmp_path / "project" / "wheels"
    make_wheel(wheels, "alpha", "1.0")
    make_wheel(wheels, "alpha", "2.0")
    make_wheel(wheels, "alpha", "3.0")
    make_wheel(wheels, "needy", "1.0", requires=["pydantic<2"])
    make_wheel(wheels, "deep", "1.0", requires=["needy>=1", "alpha"])
    return await host.bundle(tmp_path / "project")


@pytest_asyncio.fixture
async def bench(db: Database) -> StoreBench:
    """A store with one registered project."""
    return await StoreBench.make(db)
