"""What is refused before anything starts: embedded parts on several hosts."""

from typing import Any

import pytest
import ray
from pydantic import SecretStr

from wtb_ray import cluster, errors
from wtb_ray.settings import Settings


def hosts(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    nodes: list[dict[str, Any]] = [{"NodeManagerAddress": a, "Alive": True} for a in addresses]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)


def test_a_second_host_needs_a_database_and_objects_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hosts(monkeypatch, "10.0.0.1", "10.0.0.2")
    with pytest.raises(errors.ConfigurationError, match="2 hosts") as e:
        cluster.check_hosts(Settings())
    assert e.value.details["settings"] == [
        "WTB_DATABASE_URL",
        "WTB_OBJECTS_URL",
        "WTB_AUDIT_KEY",
    ]
    with pytest.raises(errors.ConfigurationError) as e:
        cluster.check_hosts(Settings(database_url="postgresql://db/wtb"))
    assert e.value.details["settings"] == ["WTB_OBJECTS_URL", "WTB_AUDIT_KEY"]
    cluster.check_hosts(
        Settings(
            database_url="postgresql://db/wtb",
            objects_url="s3://b/p",
            audit_key=SecretStr("the key of this test"),
        )
    )
    hosts(monkeypatch, "10.0.0.1", "10.0.0.1")
    cluster.check_hosts(Settings())
