"""Fixtures that more than one level of tests uses."""

import os

import pytest

from tests.stack import bench, stack

__all__ = ["bench", "stack"]

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--chaos=long` runs whole campaigns instead of their short forms."""
    parser.addoption("--chaos", choices=["short", "long"], default="short")
