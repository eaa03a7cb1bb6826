"""Fixtures that more than one level of tests uses."""

import os
import sys
from collections.abc import Iterator

import pytest

from tests.stack import bench, stack
from wtb_ray.model import RUNNER_ENV

__all__ = ["bench", "stack"]

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--chaos=long` runs whole campaigns instead of their short forms."""
    parser.addoption("--chaos", choices=["short", "long"], default="short")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything that needs a Ray of its own runs in one worker: a machine has room for one."""
    for item in items:
        needs_ray = "cluster" in item.path.parts or "stack" in getattr(item, "fixturenames", ())
        if needs_ray:
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture
def clean_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undoes what `bundles.activate` does to the process, and the imports that follow it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setenv(RUNNER_ENV, "")
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]
