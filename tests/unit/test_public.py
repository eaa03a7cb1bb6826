"""The package's public names."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import wtb_ray
from wtb_ray import errors


def test_every_public_name_is_there() -> None:
    assert {name: getattr(wtb_ray, name) for name in wtb_ray.__all__}.keys() <= set(dir(wtb_ray))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        wtb_ray.nonsense  # noqa: B018


def test_the_version_is_the_package_s() -> None:
    project = Path(wtb_ray.__file__).parents[1] / "pyproject.toml"
    assert tomllib.loads(project.read_text())["project"]["version"] == wtb_ray.__version__


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import sys, wtb_ray; print([m for m in sys.modules if m.startswith('wtb_ray.')])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_only_who_runs_graphs_waits_for_their_libraries() -> None:
    """A stack starts a dozen processes, and only runners run graphs."""
    code = "import sys, wtb_ray.serve.local; print(sys.modules.keys() & {'langgraph.graph', 'langsmith'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("amount", [-1, float("nan"), float("inf"), True, "3"])
def test_usage_is_a_number_from_nothing_on(amount: Any) -> None:
    with pytest.raises(errors.InvalidRequest, match="tokens="):
        wtb_ray.usage(tokens=amount)
    wtb_ray.usage(tokens=3)  # outside the bench it does nothing
