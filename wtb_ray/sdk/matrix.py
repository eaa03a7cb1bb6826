"""Matrices of variants: all combinations, or just enough rows that all pairs occur together.

They are what `variant_matrix` of a batch takes. The variant `default` is a node's own implementation;
deactivated variants are left out.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from wtb_ray.bindings import DEFAULT, WORKFLOW
from wtb_ray.model import ProjectSpec, ProjectVersion
from wtb_ray.sdk.project import WorkflowProject

Row = dict[str, str]
Pair = frozenset[tuple[str, str]]
AnyProject = WorkflowProject | ProjectVersion | ProjectSpec

TRIES: Final = 32
"""First choices that are looked at for each row of a pairwise matrix."""


def combinations(project: AnyProject) -> list[Row]:
    """Every variant of every node with every other, and each workflow variant by itself."""
    spec = _spec(project)
    rows = (dict(row) for row in itertools.product(*_axes(spec)))
    return [*(row for row in rows if _possible(spec, row)), *_workflows(spec)]


def pairwise(project: AnyProject) -> list[Row]:
    """Few rows in which any two variants of two nodes meet at least once; workflow variants too.

    With one or two nodes that have variants these are all combinations.
    """
    spec = _spec(project)
    axes = _axes(spec)
    if len(axes) < 3:
        return combinations(project)
    missing = {
        frozenset(pair)
        for one, other in itertools.combinations(axes, 2)
        for pair in itertools.product(one, other)
        if _possible(spec, dict(pair))
    }
    rows: list[Row] = []
    while missing:
        row = max(_candidates(spec, axes, missing), key=lambda r: len(_pairs(r) & missing))
        covered = _pairs(row) & missing
        if not covered:  # what is left cannot be completed to a row
            break
        missing -= covered
        rows.append(row)
    return [*rows, *_workflows(spec)]


def _spec(project: AnyProject) -> ProjectSpec:
    if isinstance(project, WorkflowProject):
        return project.spec(None)
    return project.spec if isinstance(project, ProjectVersion) else project


def _axes(spec: ProjectSpec) -> list[list[tuple[str, str]]]:
    """Node and variant, by node, the node's own implementation first."""
    axes = []
    for node, variants in spec.variants.items():
        active = [name for name, variant in variants.items() if variant.active]
        names = active if DEFAULT in variants else [DEFAULT, *active]
        if names:
            axes.append([(node, name) for name in names])
    return axes


def _workflows(spec: ProjectSpec) -> list[Row]:
    return [{WORKFLOW: name} for name in spec.workflow_variants]


def _possible(spec: ProjectSpec, row: Row) -> bool:
    """Whether it takes no variant of a node inside another that it replaces."""
    for node, name in row.items():
        outer = node.rpartition("/")[0]
        if not outer or name not in spec.variants.get(node, {}):
            continue
        taken = spec.variants.get(outer, {}).get(row.get(outer, DEFAULT))
        if taken is not None and taken.implementation is not None:
            return False
    return True


def _candidates(
    spec: ProjectSpec, axes: Sequence[Sequence[tuple[str, str]]], missing: set[Pair]
) -> Iterator[Row]:
    """Rows that begin with a pair that is missing, each further choice the one that adds most."""
    wanted = Counter(choice for pair in missing for choice in pair)
    ordered = sorted(missing, key=sorted)
    for pair in ordered[:: max(1, len(ordered) // TRIES)]:
        row = dict(pair)
        for axis in axes:
            if axis[0][0] in row:
                continue
            fitting = [choice for choice in axis if _possible(spec, {**row, choice[0]: choice[1]})]
            if fitting:
                row |= [max(fitting, key=lambda c: (_gain(row, c, missing), wanted[c]))]
        if len(row) == len(axes):
            yield {axis[0][0]: row[axis[0][0]] for axis in axes}


def _gain(row: Row, choice: tuple[str, str], missing: set[Pair]) -> int:
    return sum(frozenset((item, choice)) in missing for item in row.items())


def _pairs(row: Row) -> set[Pair]:
    return {frozenset(pair) for pair in itertools.combinations(row.items(), 2)}
