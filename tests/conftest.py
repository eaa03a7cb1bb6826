"""Fixtures that more than one level of tests uses."""

import gc
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.stack import RUNNING, bench, needs_stack, stack
from wtb_ray.model import RUNNER_ENV

__all__ = ["bench", "stack"]

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")
pytest_plugins = ["tests.databases"]
"""Behind that environment, which LangGraph reads when it is imported."""


NEED_RAY = ("tests/cluster/", "tests/chaos/test_kills.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--chaos=long` runs whole campaigns instead of their short forms."""
    parser.addoption("--chaos", choices=["short", "long"], default="short")


class OneRay(LoadScopeScheduling):  # type: ignore[misc]
    """Tests that need a Ray go to one worker, the other modules to whoever is free."""

    def _split_scope(self, nodeid: str) -> str:
        return "ray" if nodeid.startswith(NEED_RAY) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneRay:
    """A machine has room for one Ray at a time.

    What lasts longest is begun first and the unit tests come last, so that no worker is left alone.
    """
    config.option.loadscopereorder = False
    return OneRay(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported and collected lives as long as the session: no garbage is looked for in it."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that need the stack come first and follow each other."""
    items.sort(key=lambda item: (not needs_stack(item), not item.nodeid.startswith(NEED_RAY)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Ends the stack with the last test that needs it: also at rest it takes its share of a core."""
    yield
    if needs_stack(item) and not needs_stack(nextitem):
        RUNNING.close()


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
