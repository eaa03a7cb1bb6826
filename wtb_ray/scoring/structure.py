"""Scorers of a value's structure: json_schema."""

from typing import Annotated, Any

import orjson
from jsonschema import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, validator_for
from pydantic import AfterValidator
from referencing import Registry

from wtb_ray.model import Score
from wtb_ray.scoring.base import CellOutcome, scorer
from wtb_ray.scoring.fields import compare, plain, shown


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    try:
        validator_for(schema, Draft202012Validator).check_schema(schema)
    except SchemaError as e:
        raise ValueError(f"no JSON schema: {e.json_path}: {e.message}") from e
    return schema


Schema = Annotated[dict[str, Any], AfterValidator(_schema)]


@scorer(metrics=["json_schema"])
async def json_schema(
    result: CellOutcome,
    *,
    field: str = "answer",
    expected_field: str | None = None,
    schema: Schema | None = None,
    parse: bool = True,
) -> Score:
    """1 if the value is valid under the schema, else 0 with the first violation.

    The schema is the argument `schema`, else the expected value. A text is read as JSON first,
    unless `parse` is false. References to other documents are not followed.

    Range: 0 or 1. Source: JSON Schema, draft 2020-12 unless `$schema` names another.
    """

    def judge(value: Any, expected: Any) -> tuple[float | None, str | None]:
        try:
            found = orjson.loads(value) if parse and isinstance(value, str) else plain(value)
        except (orjson.JSONDecodeError, TypeError) as e:
            return 0.0, f"{shown(value)} is no JSON: {e}"
        violations = _validator(expected).iter_errors(found)
        first = min(violations, key=lambda e: [str(part) for part in e.absolute_path], default=None)
        return (1.0, None) if first is None else (0.0, f"{first.json_path}: {first.message}")

    return compare("json_schema", result, field, expected_field, judge, schema, objects=True)


def _validator(schema: dict[str, Any]) -> Validator:
    kind = validator_for(schema, Draft202012Validator)
    # An empty registry: the default one would fetch references over the network.
    return kind(_schema(schema), registry=Registry())
