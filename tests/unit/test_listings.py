"""Directories listed by helper processes: the same as without, and never the worse for it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from wtb_ray import scans
from wtb_ray.listings import Listers, listing
from wtb_ray.model import FileTrackingConfig

NAMES = ["", "a", "a/b", os.fsdecode(b"\xff\n")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for directory in NAMES:
        (tmp_path / directory).mkdir(parents=True, exist_ok=True)
        for i in range(200):
            (tmp_path / directory / f"file{i}").touch()
    time.sleep(0.1)  # older than what a scan doubts
    return tmp_path


@pytest.fixture
def listers() -> Iterator[Listers]:
    helpers = Listers(2)
    yield helpers
    helpers.close()


@pytest.fixture(autouse=True)
def others() -> set[int]:
    """Helpers that other tests of this process have left to end with it."""
    _OTHERS.clear()
    _OTHERS.update(child.pid for child in helpers())
    return _OTHERS


_OTHERS: set[int] = set()


def helpers() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if child.pid not in _OTHERS
        and any(word.endswith("listings.py") for word in child.cmdline())
    ]


def test_helpers_list_what_there_is(root: Path, listers: Listers) -> None:
    expected = {name: listing(f"{root}/{name}") for name in NAMES}
    assert listers.listings(root, [*NAMES, "missing"]) == expected


def test_scans_are_the_same_with_helpers_without_and_when_these_die(
    root: Path, listers: Listers
) -> None:
    rules = scans.Rules(FileTrackingConfig())
    alone = scans.scan(root, rules, {}, {})
    together = scans.scan(root, rules, {}, {}, listers)
    assert together.tree == alone.tree
    assert len(helpers()) == 2
    helpers()[0].kill()
    assert scans.scan(root, rules, {}, {}, listers).tree == alone.tree
    assert scans.scan(root, rules, {}, {}, listers).tree == alone.tree
    assert len(helpers()) == 2


def test_helpers_end_when_they_are_closed(root: Path, listers: Listers) -> None:
    listers.listings(root, NAMES)
    assert helpers()
    listers.close()
    assert not helpers()
