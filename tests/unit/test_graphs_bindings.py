"""Bindings: which implementation and which params every node gets."""

from typing import Any

import pytest

from tests import variants
from wtb_ray import bindings, context, errors, graphs
from wtb_ray.model import ProjectSpec, VariantSpec

P = "tests.variants"


def implemented(name: str, **params: Any) -> VariantSpec:
    return VariantSpec(implementation=f"{P}:{name}", params=params)


SPEC = ProjectSpec(
    name="p",
    entry=f"{P}:project",
    variants={
        "retrieve": {
            "bm25": implemented("bm25", k=5),
            "dense": implemented("dense"),
            "top3": VariantSpec(params={"k": 3}),
            "longer": implemented("own_schema"),
        },
        "generate": {
            "object": implemented("tuned"),
            "partial": implemented("prompted"),
            "closure": implemented("closure"),
            "lambda": implemented("nameless"),
            "runnable": implemented("runnable"),
            "static": implemented("Handler.generate"),
            "graph": implemented("sub"),
            "jump": implemented("jumps"),
            "gpt": VariantSpec(params={"model": "gpt"}),
        },
        "refine": {"flat": implemented("dense")},
        "refine/draft": {
            "other": implemented("bm25_draft"),
            "kind": VariantSpec(params={"tone": "kind"}),
        },
    },
    workflow_variants={"small": f"{P}:simple"},
)


async def said(binding: dict[str, str], all_graphs: graphs.Graphs | None = None) -> list[str]:
    compiled = (all_graphs or graphs.Graphs(SPEC)).compiled(binding)
    with context.entered(context.Context("e", compiled.params, "scope")):
        values = await compiled.graph.ainvoke({"query": "q", "said": []})
    said: list[str] = values["said"]
    return said


BASE = ["retrieve q all", "generate plain at generate", "draft neutral at refine/draft", "polish"]


@pytest.mark.parametrize(
    ("binding", "changes"),
    [
        ({}, {}),
        ({"_name": "baseline", "retrieve": "default"}, {}),
        ({"retrieve": "bm25"}, {0: "bm25 5"}),
        ({"retrieve": "dense"}, {0: "dense"}),
        ({"retrieve": "top3"}, {0: "retrieve q 3"}),
        ({"retrieve": "longer"}, {0: "sees ['query']"}),
        ({"generate": "object"}, {1: "tuned one"}),
        ({"generate": "partial"}, {1: "prompted politely"}),
        ({"generate": "closure"}, {1: "closure"}),
        ({"generate": "lambda"}, {1: "nameless"}),
        ({"generate": "runnable"}, {1: "prompted as a runnable"}),
        ({"generate": "static"}, {1: "static"}),
        ({"generate": "gpt"}, {1: "generate gpt at generate"}),
        ({"refine/draft": "other"}, {2: "other draft at refine/draft"}),
        ({"refine/draft": "kind"}, {2: "draft kind at refine/draft"}),
        (
            {"retrieve": "bm25", "refine/draft": "other"},
            {0: "bm25 5", 2: "other draft at refine/draft"},
        ),
    ],
)
async def test_the_binding_says_what_runs(binding: dict[str, str], changes: dict[int, str]) -> None:
    assert await said(binding) == [changes.get(i, text) for i, text in enumerate(BASE)]


async def test_a_graph_may_take_a_node_s_place() -> None:
    draft = "draft neutral at generate/draft"
    assert await said({"generate": "graph"}) == [BASE[0], draft, "polish", *BASE[2:]]


async def test_a_node_may_take_a_subgraph_s_place() -> None:
    assert await said({"refine": "flat"}) == [*BASE[:2], "dense"]


async def test_a_command_s_jump_adds_to_the_edges_that_stay() -> None:
    assert await said({"generate": "jump"}) == [BASE[0], "jumps", *BASE[2:]]


async def test_a_workflow_variant_is_a_whole_other_graph() -> None:
    assert await said({"_workflow": "small"}) == ["generate plain at generate"]
    assert await said({"_workflow": "small", "generate": "gpt"}) == ["generate gpt at generate"]


@pytest.mark.parametrize(
    ("binding", "error", "field"),
    [
        ({"nowhere": "bm25"}, errors.UnknownNode, "nowhere"),
        ({"retrieve": "nothing"}, errors.UnknownVariant, "retrieve"),
        ({"refine/polish": "nothing"}, errors.UnknownVariant, "refine/polish"),
        ({"refine": "flat", "refine/draft": "other"}, errors.UnknownNode, "refine/draft"),
        ({"_workflow": "nothing"}, errors.UnknownVariant, "_workflow"),
        ({"_workflow": "small", "retrieve": "bm25"}, errors.UnknownNode, "retrieve"),
    ],
)
def test_unknown_names_are_refused_with_and_without_the_code(
    binding: dict[str, str], error: type[errors.InvalidRequest], field: str
) -> None:
    with pytest.raises(error) as caught:
        graphs.Graphs(SPEC).validate_binding(binding)
    assert caught.value.details["field"] == field
    with pytest.raises(error):
        bindings.check(SPEC, *graphs.describe(SPEC), binding)


def test_one_graph_is_compiled_for_bindings_that_differ_in_params() -> None:
    all_graphs = graphs.Graphs(SPEC)
    base = all_graphs.compiled({})
    for binding in ({"retrieve": "top3"}, {"generate": "gpt"}, {"refine/draft": "kind"}):
        assert all_graphs.compiled(binding).graph is base.graph
        assert all_graphs.compiled(binding).params != base.params
    assert all_graphs.compiled({"retrieve": "bm25"}).graph is not base.graph


def test_compiled_graphs_are_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "COMPILED_GRAPHS", 2)
    all_graphs = graphs.Graphs(SPEC)
    first = all_graphs.compiled({}).graph
    all_graphs.compiled({"retrieve": "bm25"})
    assert all_graphs.compiled({}).graph is first
    all_graphs.compiled({"retrieve": "dense"})
    assert all_graphs.compiled({}).graph is first
    all_graphs.compiled({"generate": "object"})
    all_graphs.compiled({"generate": "partial"})
    assert all_graphs.compiled({}).graph is not first


def test_fingerprints_tell_implementations_and_params_apart() -> None:
    all_graphs = graphs.Graphs(SPEC)
    told = [
        all_graphs.compiled(b).fingerprints["retrieve"]
        for b in ({}, {"retrieve": "bm25"}, {"retrieve": "dense"}, {"retrieve": "top3"})
    ]
    assert len(set(told)) == 4
    assert told[0] == all_graphs.compiled({"generate": "gpt"}).fingerprints["retrieve"]
    inner = [
        all_graphs.compiled(b).fingerprints
        for b in ({}, {"refine/draft": "other"}, {"refine/draft": "kind"})
    ]
    assert len({one["refine/draft"] for one in inner}) == 3
    assert len({one["refine/polish"] for one in inner}) == 1


async def test_params_are_empty_outside_the_bench() -> None:
    assert context.params() == {}
    assert context.current_node() is None
    values = await variants.project().compile().ainvoke({"query": "q", "said": []})
    assert values["said"] == BASE


async def test_params_cannot_be_changed_by_a_node() -> None:
    with context.entered(context.Context("e", {"retrieve": {"k": 1}}, "s")):
        context.params()["k"] = 2
        assert await said({"retrieve": "top3"}) == ["retrieve q 3", *BASE[1:]]
