"""What users send is checked against what registration found, and every fault is named."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from wtb_ray import errors, requests
from wtb_ray.model import Case, GraphInfo, NodeInfo, ProjectSpec, ProjectVersion


def graph(*inputs: str) -> GraphInfo:
    node = NodeInfo(name="a", implementation="m:a", is_async=True, fingerprint="f")
    return GraphInfo(nodes=(node,), edges=(), channels=inputs, input_channels=inputs)


SPEC = ProjectSpec(name="p", entry="m:g", workflow_variants={"other": "m:h", "single": "m:i"})
VERSION = ProjectVersion(
    project="p",
    version="v",
    spec=SPEC,
    graph=graph("x"),
    workflows={"other": graph("y"), "single": graph("__root__")},
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)
OTHER, SINGLE = {"_workflow": "other"}, {"_workflow": "single"}


@pytest.mark.parametrize(
    ("taken", "state"),
    [
        ([{}], {"x": 1}),
        ([{}], {}),
        ([OTHER], {"y": 1}),
        ([{}, OTHER], {"x": 1, "y": 2}),
        ([OTHER, {}], {"x": 1}),
        ([SINGLE], {"__root__": [1]}),
    ],
)
def test_a_state_may_have_what_any_of_its_graphs_takes(
    taken: list[dict[str, str]], state: dict[str, Any]
) -> None:
    requests.check_state(VERSION, taken, state, field="state")


@pytest.mark.parametrize(
    ("check", "kind", "field"),
    [
        (
            lambda: requests.check_state(VERSION, [{}], {"x": 1, "y": 1}, field="state"),
            errors.InvalidState,
            "state.y",
        ),
        (
            lambda: requests.check_state(VERSION, [{}, OTHER], {"z": 1}, field="state"),
            errors.InvalidState,
            "state.z",
        ),
        (
            lambda: requests.check_binding(VERSION, {"b": "v"}, field="matrix.1"),
            errors.UnknownNode,
            "matrix.1.b",
        ),
        (
            lambda: requests.check_binding(VERSION, {"_workflow": "v"}, field="matrix.1"),
            errors.UnknownVariant,
            "matrix.1._workflow",
        ),
        (
            lambda: requests.check_breakpoints(VERSION, {}, ["a", "after:b"]),
            errors.UnknownNode,
            "breakpoints.1",
        ),
        (
            lambda: requests.check_breakpoints(VERSION, {}, ["beside:a"]),
            errors.InvalidRequest,
            "breakpoints.0",
        ),
        (
            lambda: requests.check_cases([{"x": 1}, {"id": "b"}], field="cases"),
            errors.InvalidCases,
            "cases.1.input",
        ),
        (
            lambda: requests.check_cases([{"x": 1}, {"id": 7, "x": 1}], field="cases"),
            errors.InvalidCases,
            "cases.0.id",
        ),
    ],
)
def test_a_fault_is_named_by_its_place(
    check: Callable[[], Any], kind: type[errors.WTBError], field: str
) -> None:
    with pytest.raises(kind) as raised:
        check()
    assert type(raised.value) is kind
    assert raised.value.details["field"] == field
    assert raised.value.details["reason"]


def test_what_is_right_comes_back_in_one_form() -> None:
    assert requests.check_breakpoints(VERSION, {}, ["a", "after:a"]) == ("before:a", "after:a")
    assert requests.check_cases([{"x": 1}], field="cases") == [Case(id="case-0001", input={"x": 1})]
    assert requests.check_cases([], field="cases") == []
