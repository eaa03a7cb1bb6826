"""The execution tree case by case: where variants part, and how often each node runs for it."""

import asyncio
from collections.abc import Sequence
from typing import Any

from tests.forest import RAN, marked
from tests.integration.travel_bench import TravelBench, end, travel
from tests.integration.tree_bench import TreeBench
from wtb_ray.environment import ExecutionConfig
from wtb_ray.model import Batch, new_id

__all__ = ["travel"]


def rows(node: str) -> list[dict[str, str]]:
    """The node as it is, and its two variants."""
    return [{}, {node: "a"}, {node: "b"}]


async def ran(
    travel: TravelBench,
    graph: str,
    varying: Sequence[str],
    bindings: Sequence[dict[str, str]],
    given: dict[str, Any] | None = None,
    *,
    spec: dict[str, Any] | None = None,
    **more: Any,
) -> tuple[TreeBench, Batch, dict[str, int]]:
    """A batch of one case that has ended, and how often each node ran."""
    variants = {"variants": marked(*varying), **(spec or {})}
    version = await travel.register(f"tests.forest:{graph}", **variants)
    bench = TreeBench(travel, version)
    key = new_id("k")
    batch = await bench.run(
        await bench.batch(bindings, [{"key": key, "trail": [], **(given or {})}], **more)
    )
    return bench, batch, dict(RAN.pop(key))


async def trails(bench: TreeBench, batch: Batch) -> list[list[str]]:
    """What each cell came to, in the order of work."""
    return [state["trail"] for state in (await bench.states(batch)).values()]


async def executions(bench: TreeBench, batch: Batch) -> int:
    return len({cell.execution_id for cell in await bench.cells(batch)})


async def test_variants_of_the_last_node_share_all_others(travel: TravelBench) -> None:
    bench, batch, done = await ran(travel, "line", ["five"], rows("five"))
    assert done == {"one": 1, "two": 1, "three": 1, "four": 1, "five": 1, "five!a": 1, "five!b": 1}
    first = ["one", "two", "three", "four"]
    assert await trails(bench, batch) == [[*first, five] for five in ("five", "five!a", "five!b")]
    paths = await bench.paths(batch)  # each cell shows its whole path
    assert list(paths.values()) == [[["one"], ["two"], ["three"], ["four"], ["five"]]] * 3


async def test_nothing_is_shared_when_nothing_is_to_be(travel: TravelBench) -> None:
    bench, batch, done = await ran(
        travel, "line", ["five"], rows("five"), share_prefix=False, repetitions=2
    )
    assert done["one"] == done["four"] == 6
    assert await executions(bench, batch) == 6


async def test_repetitions_share_only_within_themselves(travel: TravelBench) -> None:
    _, _, done = await ran(travel, "line", ["five"], rows("five"), repetitions=3)
    assert (done["one"], done["four"], done["five"], done["five!a"]) == (3, 3, 3, 3)


async def test_members_that_never_part_are_one_execution_to_the_end(travel: TravelBench) -> None:
    bench, batch, done = await ran(travel, "routed", ["rare"], rows("rare"))
    assert done == {"one": 1, "two": 1, "last": 2}
    assert await executions(bench, batch) == 1
    bench, batch, done = await ran(travel, "routed", ["rare"], rows("rare"), {"way": "rare"})
    assert (done["one"], done["rare"], done["rare!a"]) == (1, 1, 1)
    assert await executions(bench, batch) == 3


async def test_a_sibling_of_two_varying_nodes_runs_once_for_each_part(travel: TravelBench) -> None:
    every = [{"left": left, "right": right} for left in ("a", "b") for right in ("a", "b")]
    bench, batch, done = await ran(travel, "pair", ["left", "right"], every)
    assert done == {"first": 1, "left!a": 2, "left!b": 2, "right!a": 2, "right!b": 2} | {
        "beside": 4,
        "join": 4,
    }
    for row, trail in zip(every, await trails(bench, batch), strict=True):
        ends = {f"left!{row['left']}", f"right!{row['right']}"}
        assert set(trail) == {"first", "beside", "join", *ends}


async def test_a_varying_node_is_reached_by_a_command(travel: TravelBench) -> None:
    _, _, done = await ran(travel, "sent", ["there"], rows("there"))
    assert done == {"decide": 1, "there": 1, "there!a": 1, "there!b": 1, "worker": 6}


async def test_a_varying_node_is_sent_to(travel: TravelBench) -> None:
    _, _, done = await ran(travel, "sent", ["worker"], rows("worker"))
    assert done == {"decide": 1, "there": 1, "worker": 2, "worker!a": 2, "worker!b": 2}


async def test_the_first_node_varies_behind_a_condition(travel: TravelBench) -> None:
    bench, batch, done = await ran(travel, "entered", ["early"], rows("early"))
    assert done == {"early": 1, "early!a": 1, "early!b": 1}
    assert await trails(bench, batch) == [["early"], ["early!a"], ["early!b"]]
    _, _, done = await ran(travel, "entered", ["early"], rows("early"), {"way": "late"})
    assert done == {"late": 1}


async def test_a_cached_node_is_no_copy_over_repetitions(travel: TravelBench) -> None:
    _, _, done = await ran(travel, "cached", ["last"], rows("last"), repetitions=2)
    assert done == {"slow": 2, "last": 2, "last!a": 2, "last!b": 2}


async def test_a_dataclass_in_an_untyped_list_comes_through_a_split(travel: TravelBench) -> None:
    bench, batch, done = await ran(travel, "facts", ["tell"], rows("tell"))
    assert done["learn"] == 1
    assert await trails(bench, batch) == [
        ["learn", f"{tell} Fact moon 7"] for tell in ("tell", "tell!a", "tell!b")
    ]


async def test_remaining_steps_are_those_of_a_run_alone(travel: TravelBench) -> None:
    shared, batch, _ = await ran(travel, "counting", ["two"], rows("two"))
    alone, other, _ = await ran(travel, "counting", ["two"], rows("two"), share_prefix=False)
    assert await trails(shared, batch) == await trails(alone, other)


async def test_members_that_differ_inside_a_subgraph_part_before_it(travel: TravelBench) -> None:
    _, _, done = await ran(travel, "nested", ["outer/in2"], rows("outer/in2"))
    assert done == {"before": 1, "in1": 3, "in2": 1, "in2!a": 1, "in2!b": 1}


async def test_a_subgraph_remembers_what_it_did_before_the_variants_parted(
    travel: TravelBench,
) -> None:
    bench, batch, _ = await ran(travel, "remembering", ["between"], rows("between"))
    assert await executions(bench, batch) == 3
    assert [state["left"] for state in (await bench.states(batch)).values()] == [[2]] * 3


async def test_a_volatile_node_ends_all_sharing(travel: TravelBench) -> None:
    spec = {"execution": ExecutionConfig(volatile_nodes=("three",))}
    _, _, done = await ran(travel, "line", ["five"], rows("five"), spec=spec)
    assert (done["one"], done["two"], done["three"], done["four"]) == (1, 1, 3, 3)


async def test_variants_that_say_the_same_share_all(travel: TravelBench) -> None:
    again = [{}, {"two": "default"}, {"_name": "again"}]
    bench, batch, done = await ran(travel, "line", ["two"], again)
    assert set(done.values()) == {1}
    assert await executions(bench, batch) == 1


async def test_a_failed_shared_step_fails_all_its_cells(travel: TravelBench) -> None:
    bench, batch, done = await ran(travel, "failing", ["three"], rows("three"))
    assert done == {"one": 1, "two": 1}
    assert batch.counts == {"FAILED": 3}
    assert {(cell.error or {})["message"] for cell in await bench.cells(batch)} == {"two cannot"}


async def test_a_kill_between_drain_and_split_resumes_the_tree(travel: TravelBench) -> None:
    version = await travel.register("tests.forest:line", variants=marked("five"))
    bench, key = TreeBench(travel, version), new_id("k")
    runner = await travel.runner(version.version)
    settled, drained = runner._conclude, asyncio.Event()

    async def killed(settlement: Any) -> None:
        if settlement.kind == "split":
            drained.set()
            await asyncio.sleep(60)
        await settled(settlement)

    runner._conclude = killed  # type: ignore[method-assign]
    batch = await bench.batch(rows("five"), [{"key": key, "trail": []}])
    dying = asyncio.create_task(bench.round(batch))
    await drained.wait()
    end(runner)
    await travel.crash(version.version)
    await dying
    assert (await bench.run(batch)).counts == {"DONE": 3}
    assert dict(RAN.pop(key)) == dict.fromkeys(
        ["one", "two", "three", "four", "five", "five!a", "five!b"], 1
    )


async def test_the_tree_of_a_batch_tells_what_ran_for_how_many(travel: TravelBench) -> None:
    _, batch, _ = await ran(travel, "line", ["three", "five"], [*rows("five"), {"three": "a"}])
    found = await travel.store.splits.tree(batch.id)
    assert (found.cells, found.executions) == (4, 4)
    assert (found.reuse.node_runs, found.reuse.served) == (5 + 2 + 3, 20)
    assert found.reuse.duration_ms < found.reuse.served_ms
    assert [(n.parent, n.nodes, n.runs, n.cells, n.ended) for n in found.nodes] == [
        (None, (), 0, 4, {}),
        (0, ("one",), 1, 4, {}),
        (1, ("two",), 1, 4, {}),
        (2, ("three",), 1, 3, {}),
        (3, ("four",), 1, 3, {}),
        (4, ("five",), 1, 1, {"DONE": 1}),
        (4, ("five=a",), 1, 1, {"DONE": 1}),
        (4, ("five=b",), 1, 1, {"DONE": 1}),
        (2, ("three=a",), 1, 1, {}),
        (8, ("four",), 1, 1, {}),
        (9, ("five",), 1, 1, {"DONE": 1}),
    ]
    assert await travel.store.splits.tree(batch.id, case="c0", repetition=0) == found
    assert (await travel.store.splits.tree(batch.id, case="other")).executions == 0


async def test_a_split_is_told_with_its_parts(travel: TravelBench) -> None:
    bench, batch, _ = await ran(travel, "line", ["five"], rows("five"))
    cells = await bench.cells(batch)
    trunk = cells[0].execution_id or ""
    (told,) = await travel.told(trunk, "execution.split")
    assert [part["execution"] for part in told["parts"]] == [c.execution_id for c in cells]
    assert [part["cells"] for part in told["parts"]] == [[c.id] for c in cells]
    forks = await travel.branches.forks(trunk)
    assert {fork.id for fork in forks} == {c.execution_id for c in cells[1:]}
    assert {fork.binding["five"] for fork in forks} == {"a", "b"}


async def test_a_step_is_one_step_for_all_that_part_after_it(travel: TravelBench) -> None:
    version = await travel.register("tests.forest:line", variants=marked("two"))
    bench, key = TreeBench(travel, version), new_id("k")
    batch = await bench.batch(rows("two"), [{"key": key, "trail": []}])
    await travel.store.executions.admit(batch.id, 9, actor="scheduler")
    (shared,) = (await travel.store.executions.list(batch_id=batch.id)).items
    await travel.store.control.pause(shared.id, actor="me")
    await travel.store.control.step(shared.id, actor="me")
    for _ in range(3):
        await bench.round(batch)
    found = (await travel.store.executions.list(batch_id=batch.id)).items
    assert [(one.status, one.head_step) for one in found] == [("PAUSED", 1)] * 3
    assert dict(RAN.pop(key)) == {"one": 1}
