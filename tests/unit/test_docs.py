"""The README names everything that a user can set, call, score with or see in the log."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

import wtb_ray
from wtb_ray.environment import ExecutionConfig
from wtb_ray.events import TYPES
from wtb_ray.model import Budget, FileTrackingConfig, WorkspaceIsolationConfig
from wtb_ray.scoring import BUILT_IN
from wtb_ray.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    assert f"`WTB_{name.upper()}`" in README
    assert Settings.model_fields[name].description


@pytest.mark.parametrize("name", [*TYPES, *BUILT_IN])
def test_every_event_and_scorer_is_documented(name: str) -> None:
    assert f"`{name}`" in README


@pytest.mark.parametrize(
    "config", [Budget, FileTrackingConfig, WorkspaceIsolationConfig, ExecutionConfig]
)
def test_every_field_of_what_users_configure_is_documented(config: type[BaseModel]) -> None:
    shown = config.model_json_schema()["properties"]
    for name in config.model_fields:
        assert f"`{name}`" in README
        assert shown[name]["description"]


def test_every_rpc_is_documented() -> None:
    for proto in (ROOT / "protos").rglob("*.proto"):
        for rpc in re.findall(r"^\s*rpc (\w+)", proto.read_text(), re.MULTILINE):
            assert f"`{rpc}`" in README, rpc


def test_the_changelog_begins_with_what_is_unreleased() -> None:
    sections = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] == "Unreleased"
    assert wtb_ray.__version__ == "0.1.0"
