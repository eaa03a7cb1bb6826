"""Answers are checked against the schema of their question."""

from typing import Any

import pytest

from wtb_ray import answers, errors
from wtb_ray.store.control import _answer_schema

ITEMS = {
    "type": "object",
    "required": ["items"],
    "properties": {"items": {"type": "array", "items": {"type": "integer"}}},
}


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        ({"items": [1, 2]}, None),
        ({"items": [1, "2", None]}, "answers.i1.items.1"),
        ({"items": 1}, "answers.i1.items"),
        ({}, "answers.i1"),
        ("no", "answers.i1"),
    ],
)
def test_the_path_of_the_first_fault_is_named(answer: Any, field: str | None) -> None:
    if field is None:
        answers.check("i1", answer, ITEMS)
        return
    with pytest.raises(errors.InvalidAnswer) as e:
        answers.check("i1", answer, ITEMS)
    assert (e.value.details["field"], e.value.details["interrupt"]) == (field, "i1")


@pytest.mark.parametrize(
    "schema", [{"type": "nonsense"}, {"$ref": "http://nowhere.test/schema"}, {"$ref": "#/nowhere"}]
)
def test_what_is_no_schema_of_ours_to_check_refuses_nothing(schema: dict[str, Any]) -> None:
    answers.check("i1", {"any": "thing"}, schema)


@pytest.mark.parametrize(
    ("asked", "schema"),
    [
        ({"value": "sure?"}, None),
        ({"value": {"q": 1, "schema": ITEMS}}, ITEMS),
        ({"value": {"q": 1, "schema": "orders"}}, None),
        ({"value": {"schema": {"type": "string"}}, "response_schema": ITEMS}, ITEMS),
        ({"value": 1, "response_schema": None}, None),
    ],
)
def test_where_a_schema_is_found(asked: dict[str, Any], schema: dict[str, Any] | None) -> None:
    assert _answer_schema(asked) == schema
