"""The package's public names."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import wtb_ray


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
