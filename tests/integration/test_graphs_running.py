"""How a run ends: completed, asked, stopped, failed, or no longer its owner's."""

import asyncio
from typing import Any

import pytest

from tests import variants
from tests.integration.graph_bench import GraphBench, Ran
from wtb_ray import graphs
from wtb_ray.db import Database
from wtb_ray.model import VariantSpec

P = "tests.variants"
INPUT = {"query": "q", "said": []}


async def run(db: Database, name: str, input: Any = None, **how: Any) -> tuple[Ran, graphs.Outcome]:
    bench = await GraphBench.make(db, f"{P}:{name}")
    ran = await bench.execution(INPUT if input is None else input, **how)
    return ran, await ran.go()


# Failures


FAILURES = [
    ("failing_inside", "node_failed", "RuntimeError", "outer/deep", 3, "deep \\x00 down"),
    ("raises_same", "node_failed", "RuntimeError", "same", 3, "always the same object"),
    ("bad_return", "node_failed", "InvalidUpdateError", "wrong", 1, "Expected dict, got 5"),
    ("exits", "node_failed", "SystemExit", "leave", 1, "3"),
    ("exits_in_a_thread", "node_failed", "SystemExit", "leave", 1, "4"),
    ("bad_router", "graph_failed", "LookupError", "retrieve", 1, "no such road"),
    ("bad_reducer", "graph_failed", "ArithmeticError", None, 1, "cannot reduce b"),
    ("key_conflict", "graph_failed", "InvalidUpdateError", None, 1, "Can receive only one"),
    ("endless", "graph_failed", "GraphRecursionError", None, 1, "limit of 25 reached"),
    ("endless_inside", "graph_failed", "GraphRecursionError", "outer", 1, "limit of 25"),
    ("unstorable", "unstorable_value", "UnstorableValue", None, 1, "said"),
    ("unstorable_class", "unstorable_value", "UnstorableValue", None, 1, "said"),
]


async def test_a_failure_says_who_what_and_at_which_attempt(
    db: Database, subtests: pytest.Subtests
) -> None:
    outcomes = await asyncio.gather(*(run(db, name) for name, *_ in FAILURES))
    for (name, code, kind, node, attempt, message), (_, outcome) in zip(
        FAILURES, outcomes, strict=True
    ):
        with subtests.test(name):
            assert outcome.kind == "failed"
            fault = outcome.fault
            assert fault is not None
            assert (fault.code, fault.type, fault.node) == (code, kind, node)
            assert fault.attempt == attempt
            assert message in fault.message


async def test_a_traceback_shows_the_user_s_code_alone(db: Database) -> None:
    _, outcome = await run(db, "failing_inside")
    assert outcome.fault is not None
    told = outcome.fault.traceback or ""
    assert "tests/variants.py" in told
    assert 'raise RuntimeError("deep' in told
    for machinery in ("site-packages/langgraph", "langchain_core", "asyncio", "running.py"):
        assert machinery not in told
    assert "\x00" not in told


async def test_a_cancelled_sibling_is_not_blamed(db: Database) -> None:
    """`slow` is cancelled with an error of its own when `fail` raises."""
    bench = await GraphBench.make(db, "tests.shapes:failing")
    ran = await bench.execution({"trail": ["in"], "count": 0})
    for _ in range(2):  # and neither is it when the execution is tried again
        outcome = await ran.go()
        assert outcome.fault is not None
        assert (outcome.fault.node, outcome.fault.attempt) == ("fail", 2)
        await ran.taken_over()


async def test_a_wrong_input_fails_before_any_node(db: Database) -> None:
    bench = await GraphBench.make(db, "tests.shapes:pydantic_state")
    ran = await bench.execution({"document": 5})
    outcome = await ran.go()
    assert outcome.fault is not None
    assert (outcome.fault.code, outcome.fault.node) == ("graph_failed", None)
    assert "document" in outcome.fault.message
    assert await ran.steps() == []


async def test_a_run_that_lost_its_execution_ends_as_fenced(db: Database) -> None:
    bench = await GraphBench.make(db, "tests.shapes:linear")
    ran = await bench.execution({"trail": [], "count": 0})
    stale = ran.assignment
    await ran.taken_over()
    ran.assignment = stale
    assert (await ran.go()).kind == "fenced"
    assert await ran.steps() == []


async def test_a_cancelled_run_passes_the_cancellation_on(db: Database) -> None:
    bench = await GraphBench.make(db, "tests.shapes:failing")
    ran = await bench.execution({"trail": ["in"], "count": 0})
    task = asyncio.create_task(ran.go())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# Stops


async def test_a_wanted_pause_stops_at_the_next_boundary_and_goes_on_there(db: Database) -> None:
    bench = await GraphBench.make(db, "tests.shapes:linear")
    ran = await bench.execution({"trail": ["in"], "count": 0})
    await ran.want("pause")
    outcome = await ran.go()
    assert (outcome.kind, outcome.reason, outcome.values) == ("drained", "pause", None)
    assert (ran.wanted, ran.assignment.head_step) == ("pause", 0)
    await ran.want("run")
    outcome = await ran.go()
    assert outcome.kind == "completed"
    assert outcome.values == {"trail": ["in", *"abcde"], "count": 5}
    assert len(await ran.steps()) == 5


async def test_a_drain_from_outside_names_its_reason_and_what_follows(db: Database) -> None:
    bench = await GraphBench.make(db, "tests.shapes:linear")
    ran = await bench.execution({"trail": ["in"], "count": 0})
    control = graphs.Control()
    control.request_drain("shutdown")
    outcome = await ran.go(control=control)
    assert (outcome.kind, outcome.reason, outcome.next_nodes) == (
        "drained",
        "shutdown",
        ("__start__",),
    )
    assert (await ran.go()).kind == "completed"


async def test_a_drain_at_the_last_step_is_completed(db: Database) -> None:
    bench = await GraphBench.make(db, "tests.shapes:linear")
    ran = await bench.execution({"trail": ["in"], "count": 0})
    for _ in range(6):
        await ran.want("pause")
        outcome = await ran.go()
    assert outcome.kind == "completed"
    assert outcome.values == {"trail": ["in", *"abcde"], "count": 5}


async def test_what_has_ended_ends_again_with_its_values(db: Database) -> None:
    bench = await GraphBench.make(db, "tests.shapes:linear")
    ran = await bench.execution({"trail": ["in"], "count": 0})
    first = await ran.go()
    again = await ran.go()
    assert (again.kind, again.values) == ("completed", first.values)
    assert len(await ran.steps()) == 5


# Breakpoints


BREAKPOINTS: list[tuple[str, list[str], tuple[str, ...]]] = [
    ("before:a", [], ("a",)),
    ("before:c", ["a", "b"], ("c",)),
    ("after:c", ["a", "b", "c"], ("d",)),
    ("before:*", [], ("a",)),
    ("after:*", ["a"], ("b",)),
]


async def test_a_breakpoint_stops_before_or_after_its_node(
    db: Database, subtests: pytest.Subtests
) -> None:
    bench = await GraphBench.make(db, "tests.shapes:linear")
    for breakpoint, nodes, following in BREAKPOINTS:
        with subtests.test(breakpoint):
            ran = await bench.execution({"trail": [], "count": 0}, breakpoints=(breakpoint,))
            outcome = await ran.go()
            assert (outcome.kind, outcome.next_nodes) == ("breakpoint", following)
            assert [run.name for step in await ran.steps() for run in step.nodes] == nodes

            again = await ran.go(ran=nodes[-1:])  # a runner that recovers must not pass it
            assert (again.kind, again.reason) == ("breakpoint", outcome.reason)
            on = await ran.go(ran=nodes[-1:], passed=ran.assignment.head)
            if breakpoint.endswith("*"):
                assert (on.kind, on.next_nodes) != ("breakpoint", outcome.next_nodes)
            else:
                assert on.kind == "completed"


async def test_a_breakpoint_after_the_last_node_stops_nothing(db: Database) -> None:
    bench = await GraphBench.make(db, "tests.shapes:linear")
    ran = await bench.execution({"trail": [], "count": 0}, breakpoints=("after:e",))
    assert (await ran.go()).kind == "completed"


async def test_breakpoints_of_the_compiled_graph_count(db: Database) -> None:
    ran, outcome = await run(db, "stopping")
    assert (outcome.kind, outcome.reason) == ("breakpoint", "before:generate")
    outcome = await ran.go(passed=ran.assignment.head)
    assert outcome.kind == "completed"  # it ends after `refine`: there is nothing to stop before


async def test_in_a_batch_breakpoints_of_the_compiled_graph_stop_nothing(db: Database) -> None:
    bench = await GraphBench.make(db, f"{P}:stopping")
    ran = await bench.execution(INPUT)
    ran.assignment = ran.assignment.model_copy(update={"batch_id": "b"})
    assert (await ran.go()).kind == "completed"


# Questions


async def test_questions_are_gathered_with_their_ids_and_answered_by_them(db: Database) -> None:
    ran, outcome = await run(db, "asking")
    assert outcome.kind == "interrupted"
    asked = {one["node"]: one for one in outcome.interrupts}
    assert asked["ask"]["value"] == {"question": "q"}
    assert asked["other"]["value"] == "second"
    assert outcome.next_nodes == ("ask", "other")

    half = await ran.go(answers={asked["ask"]["id"]: "yes"})
    assert (half.kind, [one["node"] for one in half.interrupts]) == ("interrupted", ["other"])
    await ran.taken_over()
    whole = await ran.go(answers={asked["other"]["id"]: None})
    assert whole.kind == "completed"
    assert whole.values is not None
    assert whole.values["said"] == ["answered yes", "dense", "also answered None", "polish"]


async def test_a_question_without_an_answer_is_asked_again(db: Database) -> None:
    ran, outcome = await run(db, "asking")
    again = await ran.go()
    assert again.kind == "interrupted"
    assert [i["id"] for i in again.interrupts] == [i["id"] for i in outcome.interrupts]


async def test_a_stop_is_stronger_than_a_question(db: Database) -> None:
    bench = await GraphBench.make(db, f"{P}:asking")
    ran = await bench.execution(INPUT)
    await ran.go()
    await ran.want("stop")
    outcome = await ran.go()
    assert (outcome.kind, ran.wanted) == ("drained", "stop")


# Limits


async def test_the_recursion_limit_belongs_to_the_execution(db: Database) -> None:
    bench = await GraphBench.make(db, f"{P}:endless")
    whole = await bench.execution(INPUT, recursion_limit=9)
    outcome = await whole.go()
    pieces = await bench.execution(INPUT, recursion_limit=9)
    pieced = await pieces.stepwise()
    for one in (outcome, pieced):
        assert one.fault is not None
        assert (one.fault.code, one.fault.type) == ("graph_failed", "GraphRecursionError")
        assert one.fault.message.startswith("Recursion limit of 9 reached")
    assert len(await whole.steps()) == 9
    assert len(await pieces.steps()) == 9


async def test_a_graph_that_ends_at_its_limit_has_ended(db: Database) -> None:
    bench = await GraphBench.make(db, "tests.shapes:linear")
    for way in (Ran.go, Ran.stepwise):
        ran = await bench.execution({"trail": [], "count": 0}, recursion_limit=5)
        outcome = await way(ran)
        assert (outcome.kind, outcome.values) == ("completed", {"trail": [*"abcde"], "count": 5})


async def test_a_subgraph_has_the_whole_limit_after_a_resume(db: Database) -> None:
    """Six steps of the root, then five inside: more than the root has left."""
    bench = await GraphBench.make(db, f"{P}:long_way")
    for way in (Ran.go, Ran.stepwise):
        ran = await bench.execution(INPUT, recursion_limit=8)
        outcome = await way(ran)
        assert outcome.kind == "completed", outcome.fault


# Variants


async def test_executions_of_one_compiled_graph_have_their_own_params(db: Database) -> None:
    variants_ = {
        "generate": {f"m{i}": VariantSpec(params={"model": f"m{i}"}) for i in range(8)},
        "refine/draft": {"kind": VariantSpec(params={"tone": "kind"})},
    }
    bench = await GraphBench.make(db, f"{P}:project", variants=variants_)
    bindings = [
        {"generate": f"m{i}"} | ({"refine/draft": "kind"} if i % 2 else {}) for i in range(8)
    ]
    runs = [await bench.execution(INPUT, binding) for binding in bindings]
    outcomes = await asyncio.gather(*(ran.go() for ran in runs))
    for i, outcome in enumerate(outcomes):
        assert outcome.values is not None
        assert outcome.values["said"][1:3] == [
            f"generate m{i} at generate",
            f"draft {'kind' if i % 2 else 'neutral'} at refine/draft",
        ]


async def test_a_node_cache_never_makes_executions_copies_of_each_other(db: Database) -> None:
    variants.CACHED_RUNS.clear()
    bench = await GraphBench.make(db, f"{P}:cached")
    runs = [await bench.execution(INPUT) for _ in range(3)]
    outcomes = [await ran.go() for ran in runs]
    assert [o.values and o.values["said"] for o in outcomes] == [
        ["costly 1 1"],
        ["costly 2 1"],
        ["costly 3 1"],
    ]


async def test_within_an_execution_a_node_cache_works(db: Database) -> None:
    variants.CACHED_RUNS.clear()
    _, outcome = await run(db, "cached_twice")
    assert outcome.values is not None
    assert outcome.values["said"] == ["costly 1 1", "costly 1 1"]
    assert len(variants.CACHED_RUNS) == 1


# Subgraphs that remember


async def test_a_subgraph_with_a_memory_of_its_own_is_re_entered_exactly(db: Database) -> None:
    bench = await GraphBench.make(db, f"{P}:remembering")
    whole = await (await bench.execution(INPUT)).go()
    pieces = await bench.execution(INPUT)
    pieced = await pieces.stepwise()
    assert whole.values == pieced.values
    assert whole.values is not None
    assert whole.values["said"] == ["seen 1", "seen 2", "seen 3"]


async def test_a_node_whose_router_raised_has_not_finished_for_who_goes_on(db: Database) -> None:
    ran, first = await run(db, "bad_router")
    assert first.kind == "failed"
    await ran.taken_over()  # the runner died before it could say so
    second = await ran.go()
    assert second.kind == "failed"
    assert second.fault is not None
    assert (second.fault.type, second.fault.node) == ("LookupError", "retrieve")
