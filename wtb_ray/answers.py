"""Answers to what nodes ask: whether one fits its question, and which of a case's come next."""

from collections.abc import Mapping, Sequence
from typing import Any

from jsonschema import SchemaError
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from wtb_ray import errors


def check(id: str, answer: Any, schema: dict[str, Any]) -> None:
    """Checks an answer against the schema of its question; one that is no schema checks nothing.

    Raises:
        InvalidAnswer: It does not fit; `field` is the path in the answer.
    """
    kind = validator_for(schema, Draft202012Validator)
    try:
        kind.check_schema(schema)
        # An empty registry: the default one would fetch references over the network.
        faults = list(kind(schema, registry=Registry()).iter_errors(answer))
    except (SchemaError, Unresolvable):
        return
    if faults:
        found = min(faults, key=lambda fault: [str(part) for part in fault.absolute_path])
        where = ".".join(["answers", id, *map(str, found.absolute_path)])
        raise errors.InvalidAnswer(
            f"{where}: {found.message}", field=where, reason=found.message, interrupt=id
        )


def next_of(questions: Sequence[Mapping[str, Any]], left: Sequence[Any]) -> dict[str, Any]:
    """The answers to questions that are asked at once, as many as there are, by interrupt id.

    Args:
        questions: `{"id", "answered", "answer_schema"}` of each, in their order.
        left: The answers of a case that its questions so far have left.

    Raises:
        InvalidAnswer: One does not fit the schema of its question.
    """
    unanswered = [question for question in questions if not question["answered"]]
    given = {}
    for question, answer in zip(unanswered, left, strict=False):
        if question["answer_schema"] is not None:
            check(question["id"], answer, question["answer_schema"])
        given[question["id"]] = answer
    return given
