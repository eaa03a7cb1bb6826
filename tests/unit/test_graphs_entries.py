"""Entries: every way to give a graph, and every way to fail at it."""

import dataclasses

import pytest
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import RetryPolicy

from tests import variants
from wtb_ray import entries, errors, graphs
from wtb_ray.entries import load_entry
from wtb_ray.model import ProjectSpec, VariantSpec

P = "tests.variants"


@pytest.mark.parametrize("name", ["project", "async_project", "stopping", "sub", "as_graph"])
def test_a_graph_comes_from_a_builder_a_factory_or_a_compiled_graph(name: str) -> None:
    graph = load_entry(f"{P}:{name}")
    assert isinstance(graph.builder, StateGraph)
    assert {"draft", "retrieve"} & set(graph.builder.nodes)


def test_compile_options_are_kept_and_breakpoints_are_ours() -> None:
    graph = load_entry(f"{P}:stopping")
    assert graph.breakpoints() == ("before:generate", "after:refine")
    made = graphs.Graphs(ProjectSpec(name="p", entry=f"{P}:stopping")).compiled({})
    assert made.breakpoints == graph.breakpoints()
    assert made.graph.name == "stopping"
    assert list(made.graph.interrupt_before_nodes) == list(made.graph.interrupt_after_nodes) == []
    assert list(variants.stopping.interrupt_before_nodes) == ["generate"]


def test_a_graph_with_defaults_for_its_nodes_can_be_compiled_again_and_again() -> None:
    made = graphs.Graphs(ProjectSpec(name="p", entry=f"{P}:defaults", variants=GENERATE))
    for variant in ("default", "async", "default"):
        nodes = made.compiled({"generate": variant}).graph.nodes
        assert nodes["generate"].retry_policy
        assert nodes["generate"].error_handler_node == entries.DEFAULT_HANDLER


GENERATE = {"generate": {"async": VariantSpec(implementation=f"{P}:dense")}}


@pytest.mark.parametrize(
    ("name", "error", "why"),
    [
        ("raising", errors.EntryFailed, "RuntimeError: no graph today"),
        ("gives_number", errors.EntryFailed, "gave a int"),
        ("number", errors.EntryFailed, "gave a int"),
        ("needs_argument", errors.EntryFailed, "TypeError"),
        ("missing", errors.NotImportable, "names nothing"),
        ("functional", errors.UnsupportedGraph, "functional graphs"),
        ("deltas", errors.UnsupportedGraph, "forked"),
        ("deltas_inside", errors.UnsupportedGraph, "forked"),
    ],
)
def test_what_is_no_usable_graph_says_why(
    name: str, error: type[errors.InvalidRequest], why: str
) -> None:
    with pytest.raises(error) as caught:
        load_entry(f"{P}:{name}")
    assert caught.value.details["field"] == "entry"
    assert why in caught.value.details["reason"]


def test_an_entry_that_hangs_is_left_behind() -> None:
    with pytest.raises(errors.EntryFailed, match="did not return within"):
        load_entry(f"{P}:hanging", timeout_s=0.1)


def test_a_graph_that_does_not_compile_says_why() -> None:
    with pytest.raises(errors.EntryFailed, match="must have an entrypoint") as caught:
        graphs.describe(ProjectSpec(name="p", entry=f"{P}:no_start"))
    assert caught.value.details["field"] == "entry"


def test_a_description_names_nodes_edges_and_channels() -> None:
    graph, workflows = graphs.describe(
        ProjectSpec(name="p", entry=f"{P}:project", workflow_variants={"small": f"{P}:simple"})
    )
    nodes = {node.name: node for node in graph.nodes}
    assert list(nodes) == ["retrieve", "generate", "refine", "refine/draft", "refine/polish"]
    assert nodes["retrieve"].implementation == f"{P}:retrieve"
    assert [n.is_async for n in graph.nodes] == [True, False, True, True, True]
    assert [n.name for n in graph.nodes if n.subgraph] == ["refine"]
    assert set(graph.edges) == {
        ("__start__", "retrieve"),
        ("retrieve", "generate"),
        ("generate", "refine"),
    }
    assert graph.channels == graph.input_channels == ("query", "said")
    assert [n.name for n in workflows["small"].nodes] == ["generate"]


@pytest.mark.parametrize(
    ("entry", "edges"),
    [
        ("conditional", {("first", "even"), ("first", "odd")}),
        ("cycle", {("check", "work"), ("check", "__end__")}),
        ("parallel", {("b", "d"), ("c", "d")}),
        ("command_goto", {("decide", "left"), ("decide", "right"), ("right", "decide")}),
        ("command_parent", {("inner", "landed")}),
        ("send", {("plan", "square")}),
    ],
)
def test_edges_include_routers_joins_and_commands(entry: str, edges: set[tuple[str, str]]) -> None:
    graph, _ = graphs.describe(ProjectSpec(name="p", entry=f"tests.shapes:{entry}"))
    assert edges <= set(graph.edges)


def spec(**nodes: dict[str, VariantSpec]) -> ProjectSpec:
    return ProjectSpec(name="p", entry=f"{P}:project", variants=nodes)


@pytest.mark.parametrize(
    ("implementation", "error", "why"),
    [
        (f"{P}:Tuned", errors.EntryFailed, "a class cannot be a node"),
        (f"{P}:number", errors.EntryFailed, "a int cannot be a node"),
        (f"{P}:nothing", errors.NotImportable, "names nothing"),
        (f"{P}:closed_over.<locals>.node", errors.NotImportable, "not of the form"),
        (f"{P}:jumps_nowhere", errors.EntryFailed, "nowhere"),
    ],
)
def test_an_implementation_that_cannot_be_a_node_names_its_variant(
    implementation: str, error: type[errors.InvalidRequest], why: str
) -> None:
    with pytest.raises(error) as caught:
        graphs.describe(spec(generate={"bad": VariantSpec(implementation=implementation)}))
    assert "variants.generate" in caught.value.details["field"]
    assert why in caught.value.details["reason"]


def test_variants_of_a_node_that_no_graph_has_are_refused() -> None:
    with pytest.raises(errors.UnknownNode) as caught:
        graphs.describe(spec(nowhere={"v": VariantSpec(implementation=f"{P}:dense")}))
    assert caught.value.details["field"] == "variants.nowhere"
    assert "refine/draft" in caught.value.details["reason"]


def test_replacing_a_node_leaves_the_user_s_graph_as_it_was() -> None:
    before = dict(variants.stopping.builder.nodes)
    whole = ProjectSpec(name="p", entry=f"{P}:stopping", variants=GENERATE)
    graphs.Graphs(whole).compiled({"generate": "async"})
    assert variants.stopping.builder.nodes == before
    assert variants.stopping.nodes["generate"].retry_policy


def test_policies_of_the_node_stay_with_every_implementation() -> None:
    builder = entries.bind(variants.project(), {"generate": variants.dense})
    spec = builder.nodes["generate"]
    assert spec.retry_policy == RetryPolicy(max_attempts=2)
    assert dataclasses.asdict(variants.project().nodes["generate"]).keys() >= {"defer", "ends"}
    assert list(builder.nodes) == ["retrieve", "generate", "refine"]


def test_a_nested_subgraph_keeps_its_options() -> None:
    builder = entries.bind(variants.options_inside(), {"inner/draft": variants.bm25_draft})
    inner = builder.nodes["inner"].runnable
    assert isinstance(inner, CompiledStateGraph)
    assert (inner.config or {})["recursion_limit"] == 7
    assert (inner.name, inner.checkpointer) == ("named", True)
    assert list(inner.interrupt_before_nodes) == ["polish"]


@pytest.mark.parametrize(
    ("shape", "types"),
    [
        ("pydantic_state", {("tests.shapes", "Model"), ("tests.shapes", "Document")}),
        ("dataclass_state", {("tests.shapes", "Data"), ("tests.shapes", "Finding")}),
        ("messages", {("langchain_core.messages.ai", "AIMessage")}),
    ],
)
def test_classes_of_the_schemas_may_be_stored(shape: str, types: set[tuple[str, str]]) -> None:
    graph = load_entry(f"tests.shapes:{shape}")
    assert types <= entries.storable_types(graph.builder, ProjectSpec(name="p", entry="a:b"))


def test_all_classes_of_the_project_s_code_and_named_ones_may_be_stored() -> None:
    project = ProjectSpec(
        name="p", entry="tests.shapes:linear", state_types=("fractions:Fraction",)
    )
    graph = load_entry(project.entry)
    assert ("fractions", "Fraction") in entries.storable_types(graph.builder, project)
    assert {"tests", "wtb_ray"} <= entries.packages(project)
    installed = project.model_copy(update={"entry": "langgraph.graph:StateGraph"})
    assert "pydantic" not in entries.packages(installed)
