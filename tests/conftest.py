"""Fixtures that more than one level of tests uses."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.stack import SERVING, bench, stack
from wtb_ray.model import RUNNER_ENV

__all__ = ["bench", "stack"]

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")


NEED_RAY = ("tests/cluster/", "tests/chaos/test_kills.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--chaos=long` runs whole campaigns instead of their short forms."""
    parser.addoption("--chaos", choices=["short", "long"], default="short")


def _needs_ray(nodeid: str) -> bool:
    return nodeid.startswith(NEED_RAY)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a Ray come first and together."""
    items.sort(key=lambda item: not _needs_ray(item.nodeid))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """The stack does not go on, and use the machine, while only tests are left that do not need it."""
    yield
    if _needs_ray(item.nodeid) and nextitem is not None and not _needs_ray(nextitem.nodeid):
        item.config.stash.setdefault(SERVING, ExitStack()).close()


class OneRay(LoadScopeScheduling):  # type: ignore[misc]
    """Tests that need a Ray go to one worker, the others to whoever is free."""

    def _split_scope(self, nodeid: str) -> str:
        return "ray" if _needs_ray(nodeid) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneRay:
    """A machine has room for one Ray at a time."""
    return OneRay(config, log)


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
