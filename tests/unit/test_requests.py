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


def two(name: str = "p", **more: Any) -> ProjectVersion:
    """A graph of a and b with channels x and y, and variants of b."""
    nodes = tuple(
        NodeInfo(name=n, implementation=f"m:{n}", is_async=True, fingerprint=f"f{n}", **extra)
        for n, extra in (("a", {}), ("b", {"variants": {"other": "fo"}}))
    )
    info = GraphInfo(nodes=nodes, edges=(), channels=("x", "y"), input_channels=("x",))
    variants: dict[str, Any] = {
        "b": {
            "other": {"implementation": "m:o"},
            "hot": {"params": {"t": 1}},
            "off": {"params": {"t": 2}, "active": False},
        }
    }
    spec = ProjectSpec(name=name, entry="m:g", variants=variants, workflow_variants={"w": "m:w"})
    return VERSION.model_copy(
        update={"spec": spec, "graph": info, "workflows": {"w": graph("x")}, **more}
    )


def test_deactivated_variants_are_refused() -> None:
    with pytest.raises(errors.UnknownVariant, match="deactivated") as e:
        requests.check_binding(two(), {"b": "off"}, field="variant_config")
    assert e.value.details["field"] == "variant_config.b"


def test_a_binding_is_inherited_as_far_as_the_graph_has_its_nodes() -> None:
    version = two()
    inherit = requests.inherited_binding
    assert inherit(version, {"b": "hot"}, {}, field="f") == {"b": "hot"}
    assert inherit(version, {"b": "hot"}, {"b": "default"}, field="f") == {"b": "default"}
    assert inherit(version, {"b": "hot"}, {"_workflow": "w"}, field="f") == {"_workflow": "w"}
    assert inherit(version, {"_workflow": "w"}, {"a": "default"}, field="f") == {
        "_workflow": "w",
        "a": "default",
    }
    with pytest.raises(errors.UnknownNode):
        inherit(version, {}, {"_workflow": "w", "b": "hot"}, field="f")
    with pytest.raises(errors.UnknownVariant):
        inherit(version, {"b": "gone"}, {}, field="f")


@pytest.mark.parametrize(
    ("binding", "next_nodes", "channels", "missing"),
    [
        ({}, ["a", "b"], ["x", "y"], None),
        ({}, ["a", "c"], ["x"], (["c"], [])),
        ({}, [], ["x", "z"], ([], ["z"])),
        ({"_workflow": "w"}, ["a"], ["x"], None),
        ({"_workflow": "w"}, ["b"], ["y"], (["b"], ["y"])),
    ],
)
def test_a_graph_fits_a_checkpoint_or_not(
    binding: dict[str, str],
    next_nodes: list[str],
    channels: list[str],
    missing: tuple[list[str], list[str]] | None,
) -> None:
    if missing is None:
        requests.check_fit(two(), binding, next_nodes, channels)
        return
    with pytest.raises(errors.Incompatible) as e:
        requests.check_fit(two(), binding, next_nodes, channels)
    assert (e.value.details["nodes"], e.value.details["channels"]) == missing


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ({}, {}),
        ({"b": "default"}, {}),
        ({"b": "other"}, {"b": ("fb", "fo")}),
        ({"b": "hot"}, {"b": ("fb", "fb")}),
        ({"_workflow": "w"}, {"a": ("fa", "f"), "b": ("fb", None)}),
    ],
)
def test_what_a_swap_changes(new: dict[str, str], expected: dict[str, Any]) -> None:
    assert requests.swapped((two(), {}), (two(), new)) == expected


def test_changes_of_a_state_name_channels() -> None:
    requests.check_channels(two(), {}, {"x": 1, "y": 2}, field="state")
    with pytest.raises(errors.InvalidState) as e:
        requests.check_channels(two(), {"_workflow": "w"}, {"y": 2}, field="state")
    assert (e.value.details["field"], e.value.details["channel"]) == ("state.y", "y")
