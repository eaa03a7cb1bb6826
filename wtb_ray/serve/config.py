"""Checks Serve config files strictly: `python -m wtb_ray.serve.config FILE...`.

Serve itself ignores keys that it does not know at most levels, so a misspelt option would silently
do nothing. Here every key must exist in Serve's own schema, import paths must resolve, `args` must
be what the builder takes, and every deployment must be one that the application has.
"""

import importlib
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema

from wtb_ray import errors
from wtb_ray.serve.app import AppArgs
from wtb_ray.settings import Settings

DEPLOYMENTS = {"Ingress", "ExecutionController"}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """All models inside an annotation such as `list[Model] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models(inner)


def unknown_keys(model: type[BaseModel], data: Any, path: str = "") -> Iterator[str]:
    """Paths of keys that the model does not have, at any depth."""
    if not isinstance(data, dict):
        return
    fields = {f.alias or name: f for name, f in model.model_fields.items()}
    for key, value in data.items():
        here = f"{path}.{key}" if path else str(key)
        if key not in fields:
            yield here
            continue
        for inner in _models(fields[key].annotation):
            rows = value if isinstance(value, list) else [value]
            for i, row in enumerate(rows):
                yield from unknown_keys(inner, row, f"{here}[{i}]" if rows is value else here)
            break


def _import(path: str) -> Any:
    module, _, name = path.replace(":", ".").rpartition(".")
    return getattr(importlib.import_module(module), name)


def check(file: Path) -> list[str]:
    """What is wrong with a config file, one line each; empty when nothing is."""
    try:
        data = yaml.safe_load(file.read_text())
        schema = ServeDeploySchema.model_validate(data)
    except (OSError, yaml.YAMLError, ValidationError, ValueError) as e:
        return [f"{file}: {e}"]
    found = [f"{file}: unknown key {key}" for key in unknown_keys(ServeDeploySchema, data)]
    paths = [*schema.grpc_options.grpc_servicer_functions]
    paths += [app.import_path for app in schema.applications]
    for path in paths:
        try:
            _import(path)
        except (ImportError, AttributeError, ValueError) as e:
            found.append(f"{file}: {path} cannot be imported: {e}")
    for app in schema.applications:
        try:
            Settings(**AppArgs.model_validate(app.args).settings)
        except (ValidationError, errors.WTBError) as e:
            found.append(f"{file}: args of {app.name}: {e}")
        found += [
            f"{file}: application {app.name} has no deployment {d.name}"
            for d in app.deployments
            if d.name not in DEPLOYMENTS
        ]
    return found


def main() -> None:
    """Checks all files given; exits 1 when anything is wrong."""
    found = [line for name in sys.argv[1:] for line in check(Path(name))]
    sys.stderr.writelines(f"{line}\n" for line in found)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
