"""Combinations of variants cover what they promise, and nothing that cannot run."""

import itertools

import pytest

from wtb_ray.model import ProjectSpec, VariantSpec
from wtb_ray.sdk import WorkflowProject, combinations, pairwise

PARAMS = VariantSpec(params={"k": 1})


def spec(**axes: int) -> ProjectSpec:
    variants = {node: {f"v{i}": PARAMS for i in range(count)} for node, count in axes.items()}
    return ProjectSpec(name="p", entry="m:g", variants=variants)


def test_all_combinations_with_the_nodes_own_implementations() -> None:
    assert combinations(spec(a=1, b=2)) == [
        {"a": a, "b": b} for a in ("default", "v0") for b in ("default", "v0", "v1")
    ]
    assert combinations(spec()) == [{}]


def test_a_project_object_will_do() -> None:
    project = WorkflowProject("p", "json:loads")
    project.register_variant("a", "fast", params={"k": 1})
    project.register_workflow_variant("other", "json:dumps")
    rows = [{"a": "default"}, {"a": "fast"}, {"_workflow": "other"}]
    assert combinations(project) == rows
    assert pairwise(project) == rows


def test_deactivated_variants_and_a_variant_called_default() -> None:
    off = PARAMS.model_copy(update={"active": False})
    found = ProjectSpec(
        name="p", entry="m:g", variants={"a": {"x": PARAMS, "y": off}, "b": {"default": PARAMS}}
    )
    assert combinations(found) == [{"a": "default", "b": "default"}, {"a": "x", "b": "default"}]


def test_variants_inside_a_replaced_node_are_left_out() -> None:
    other = VariantSpec(implementation="m:other")
    found = ProjectSpec(
        name="p", entry="m:g", variants={"outer": {"whole": other}, "outer/in": {"v": PARAMS}}
    )
    assert {"outer": "whole", "outer/in": "v"} not in combinations(found)
    assert len(combinations(found)) == 3


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2, 2), (4, 3, 2, 1, 1), (1,) * 10, (9, 9, 9)])
def test_any_two_variants_meet(sizes: tuple[int, ...]) -> None:
    found = spec(**{f"n{i}": count for i, count in enumerate(sizes)})
    rows = pairwise(found)
    axes = [
        [(node, name) for name in ("default", *variants)]
        for node, variants in found.variants.items()
    ]
    for one, other in itertools.combinations(axes, 2):
        for left, right in itertools.product(one, other):
            assert any({left, right} <= row.items() for row in rows)
    assert all(set(row) == set(found.variants) for row in rows)
    largest = sorted((count + 1 for count in sizes), reverse=True)
    assert len(rows) <= 2.5 * largest[0] * largest[1]
    assert pairwise(found) == rows
