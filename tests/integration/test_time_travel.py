"""Rollback, roll forward and fork, with files, and what crashes and zombies do to them."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from tests.integration.travel_bench import TravelBench, back, eventually, fork, travel
from tests.travels import HELD, RAN
from wtb_ray import errors
from wtb_ray.model import FileTrackingConfig, VariantSpec
from wtb_ray.states import ExecutionStatus as E

__all__ = ["travel"]

TRACKED = {"file_tracking": FileTrackingConfig()}
BOTH = pytest.mark.parametrize("spec", [TRACKED, {}], ids=["tracked", "untracked"])
K: dict[str, Any] = {"key": "k", "trail": [], "count": 0}
MARKED = {n: {"other": VariantSpec(params={"mark": "!"})} for n in ("b", "seed", "seed2")}


def grown(name: str, names: str) -> str:
    """What a node of `files` writes into the trail: its name, and the file that all add to."""
    return name + names[: names.index(name) + 1]


def tree(names: str) -> dict[str, str]:
    """The files when these nodes have run."""
    own = {f"{name}.txt": name for name in names}
    return {"all.txt": names, **own} if names else {}


@BOTH
async def test_a_crash_inside_the_first_step_after_a_rollback(
    travel: TravelBench, spec: dict[str, Any]
) -> None:
    version = await travel.register("tests.travels:files", **spec)
    done = await travel.run(version, K)
    before = await travel.steps(done.id)
    rolled = await back(travel, done.id, 1)
    assert (rolled.status, rolled.reason, rolled.head_step) == (E.PAUSED, "rollback", 1)
    HELD.add(("k", "b"))
    await travel.control.resume(done.id, actor="me")
    await travel.begin(done.id)
    await eventually(lambda: RAN["k"] == [*"abcdb"])
    await travel.crash(version.version)
    HELD.clear()
    again = await travel.go(done.id)
    assert again.status == E.COMPLETED
    assert RAN["k"] == [*"abcdbbcd"]
    steps = await travel.steps(done.id)
    assert [(s.step, s.next_nodes) for s in steps] == [(s.step, s.next_nodes) for s in before]
    assert [s.checkpoint_id for s in steps[:3]] == [s.checkpoint_id for s in before[:3]]
    if spec:
        assert (await travel.state(done.id))["trail"] == [grown(n, "abcd") for n in "abcd"]
        assert await travel.files(done.id) == tree("abcd")
        assert [await travel.files(done.id, s.checkpoint_id) for s in steps[1:]] == [
            tree("abcd"[:n]) for n in range(5)
        ]


async def test_files_go_with_rollback_and_fork(travel: TravelBench) -> None:
    """Every step of an execution, gone back to in a random order: its state and exact tree."""
    version = await travel.register("tests.travels:files", **TRACKED)
    done = await travel.run(version, K)
    places = {s.step: s.checkpoint_id for s in await travel.steps(done.id) if s.step >= 0}
    order = [*places] * 2
    random.Random(4).shuffle(order)
    for step in order:
        child = await fork(travel, done.id, places[step])
        for id in (done.id, child.id):
            await travel.branches.roll_back(id, places[step], actor="me")
            assert await travel.files(id) == tree("abcd"[:step])
            assert (await travel.state(id)).get("trail", []) == [
                grown(n, "abcd") for n in "abcd"[:step]
            ]
            await travel.control.resume(id, actor="me")
            assert (await travel.go(id)).status == E.COMPLETED
            assert await travel.files(id) == tree("abcd")
            assert (await travel.state(id))["trail"] == [grown(n, "abcd") for n in "abcd"]
    displaced = await travel.store.files.restores(done.id)
    assert displaced, "what a rollback displaced can be got back"


async def test_roll_back_to_entry_and_exit_and_forward_again(travel: TravelBench) -> None:
    version = await travel.register("tests.travels:line")
    done = await travel.run(version, K)
    place = travel.branches.place_of_node
    entry, exit = await place(done.id, "b", "entry"), await place(done.id, "b")
    assert [entry, exit] == [await travel.at(done.id, n) for n in (1, 2)]
    last = str(done.head)
    for checkpoint, trail, next in ((exit, "ab", "c"), (entry, "a", "b")):
        rolled = await travel.branches.roll_back(done.id, checkpoint, actor="me")
        assert rolled.head == checkpoint
        assert (await travel.state(done.id))["trail"] == [*trail]
        assert (await travel.steps(done.id))[-1].next_nodes == (next,)
    with pytest.raises(errors.UnknownNode):
        await place(done.id, "c")
    assert await place(done.id, "b", "entry") == entry
    forward = await travel.branches.roll_back(done.id, last, actor="me")
    assert (forward.status, forward.head) == (E.PAUSED, last)
    assert (await travel.state(done.id))["trail"] == [*"abc"]
    assert (await travel.resume(done.id)).status == E.COMPLETED
    assert RAN["k"] == [*"abc"], "nothing runs beyond the end"
    first = await travel.branches.roll_back(done.id, await travel.at(done.id, -1), actor="me")
    assert first.head_step == -1
    again = await travel.resume(done.id)
    assert again.status == E.COMPLETED
    assert RAN["k"] == [*"abcabc"]
    assert (await travel.state(done.id))["trail"] == [*"abc"]
    branches = await travel.branches.list(done.id)
    assert [b.reason for b in branches] == ["start", *["rollback"] * 4]
    assert [b.parent_checkpoint for b in branches[1:]] == [exit, entry, last, first.head]


async def test_a_fork_of_a_fork_goes_back_to_before_both(travel: TravelBench) -> None:
    version = await travel.register("tests.travels:line", variants={"b": MARKED["b"]})
    done = await travel.run(version, K)
    child = await fork(travel, done.id, await travel.at(done.id, 1), {"b": "other"})
    assert (child.status, child.forked_from, child.binding) == (E.PAUSED, done.id, {"b": "other"})
    assert (await travel.resume(child.id)).status == E.COMPLETED
    grand = await fork(travel, child.id, await travel.at(child.id, 2), run=True)
    assert grand.status == E.PENDING
    assert (await travel.go(grand.id)).status == E.COMPLETED
    trails = [(await travel.state(e.id))["trail"] for e in (done, child, grand)]
    assert trails == [["a", "b", "c"], ["a", "b!", "c"], ["a", "b!", "c"]]
    for id, mark in ((grand.id, ""), (child.id, "!")):
        rolled = await back(travel, id, 0)
        assert (rolled.head_step, await travel.state(id)) == (0, K | {"trail": []})
        assert (await travel.resume(id)).status == E.COMPLETED
        assert (await travel.state(id))["trail"] == ["a", f"b{mark}", "c"]
        assert [s.step for s in await travel.steps(id)] == [-1, 0, 1, 2, 3]
    assert (await travel.state(done.id))["trail"] == ["a", "b", "c"]
    assert await travel.at(grand.id, 0) == await travel.at(done.id, 0)


async def test_a_child_does_not_see_what_its_parent_did_after(travel: TravelBench) -> None:
    version = await travel.register("tests.travels:line")
    done = await travel.run(version, K)
    child = await fork(travel, done.id, await travel.at(done.id, 1))
    with pytest.raises(errors.UnknownCheckpoint):
        await travel.branches.roll_back(child.id, str(done.head), actor="me")
    grand = await fork(travel, child.id, await travel.at(child.id, 1))
    with pytest.raises(errors.UnknownCheckpoint):
        await travel.branches.roll_back(grand.id, str(done.head), actor="me")
    await travel.resume(grand.id)
    with pytest.raises(errors.UnknownCheckpoint):
        await travel.branches.roll_back(
            child.id, str((await travel.get(grand.id)).head), actor="me"
        )


@pytest.mark.parametrize("spec", [TRACKED, {}], ids=["tracked", "untracked"])
async def test_a_hundred_forks_of_one_checkpoint(travel: TravelBench, spec: dict[str, Any]) -> None:
    version = await travel.register("tests.travels:files", **spec)
    done = await travel.run(version, K)
    place = await travel.at(done.id, 2)
    many = 100 if not spec else 20
    made = await asyncio.gather(*(fork(travel, done.id, place, run=True) for _ in range(many)))
    for child in made:
        if (await travel.get(child.id)).status == E.PENDING:
            await travel.begin(child.id)
    ended = [await travel.rest(child.id) for child in made]
    assert {e.status for e in ended} == {E.COMPLETED}
    assert RAN["k"].count("c") == many + 1
    assert RAN["k"].count("b") == 1
    if spec:
        for child in made[::5]:
            assert await travel.files(child.id) == tree("abcd")


async def test_a_fork_of_what_runs(travel: TravelBench) -> None:
    version = await travel.register("tests.travels:line")
    id = await travel.create(version, K)
    HELD.add(("k", "b"))
    await travel.begin(id)
    await eventually(lambda: RAN["k"] == ["a", "b"])
    children = [
        await fork(travel, id, str((await travel.get(id)).head), mode=mode)
        for mode in ("clean", "as_it_stands")
    ]
    with pytest.raises(errors.InvalidTransition):
        await back(travel, id, 0)
    HELD.clear()
    for child in children:
        assert (await travel.resume(child.id)).status == E.COMPLETED
    assert (await travel.rest(id)).status == E.COMPLETED
    assert sorted(RAN["k"]) == [*"abbbccc"]


async def test_a_fork_that_runs_passes_the_breakpoint_where_it_begins(travel: TravelBench) -> None:
    """As one that was made PAUSED and then resumed does."""
    version = await travel.register("tests.travels:stopping")
    stopped = await travel.run(version, K)
    assert stopped.reason == "breakpoint"
    child = await fork(travel, stopped.id, str(stopped.head), run=True)
    found = await travel.go(child.id)
    assert (found.reason, (await travel.state(child.id))["trail"]) == (
        "breakpoint",
        ["a", "b", "c"],
    )
    other = await fork(travel, stopped.id, str(stopped.head))
    found = await travel.resume(other.id)
    assert (found.reason, (await travel.state(other.id))["trail"]) == (
        "breakpoint",
        ["a", "b", "c"],
    )


async def test_going_back_asks_again_and_as_it_stands_keeps_the_answer(travel: TravelBench) -> None:
    version = await travel.register("tests.travels:three_ask")
    asked = await travel.run(version, K)
    ids = {q["value"][0]: q["id"] for q in await travel.control.asked(asked.id)}
    await travel.answer(asked.id, {ids["p"]: "1"})
    await travel.control.answer(asked.id, {ids["q"]: "2"}, resume=False, actor="me")
    place = str((await travel.get(asked.id)).head)
    clean = await fork(travel, asked.id, place)
    same = await fork(travel, asked.id, place, mode="as_it_stands")
    questions = {q["value"][0]: q["answered"] for q in await travel.control.asked(same.id)}
    assert questions == {"q": True, "r": False}
    assert await travel.control.asked(clean.id) == []
    with pytest.raises(errors.Conflict):
        await travel.control.answer(clean.id, {ids["q"]: "old"}, actor="me")
    found = await travel.answer(same.id, {ids["r"]: "3"})
    assert (await travel.state(found.id))["trail"] == ["a", "p:1", "q:2", "r:3", "z"]
    found = await travel.resume(clean.id)
    assert (found.reason, len(await travel.control.asked(clean.id))) == ("interrupt", 3)
    found = await travel.answer(clean.id, {i: n for n, i in ids.items()})
    assert (await travel.state(found.id))["trail"] == ["a", "p:p", "q:q", "r:r", "z"]
    # The one they came from still waits, and has what it had.
    found = await travel.answer(asked.id, {ids["r"]: "0"})
    assert (await travel.state(found.id))["trail"] == ["a", "p:1", "q:2", "r:0", "z"]


async def test_as_it_stands_is_how_the_present_branch_stands(travel: TravelBench) -> None:
    """After a rollback the same checkpoint is in two threads; what counts is the present one's."""
    version = await travel.register("tests.travels:three_ask")
    asked = await travel.run(version, K)
    place = str(asked.head)
    ids = {q["value"][0]: q["id"] for q in await travel.control.asked(asked.id)}
    await travel.answer(asked.id, {ids["p"]: "old"})
    await travel.branches.roll_back(asked.id, place, actor="me")
    await travel.resume(asked.id)
    await travel.answer(asked.id, {ids["q"]: "new"})
    same = await fork(travel, asked.id, place, mode="as_it_stands")
    assert [q["value"] for q in await travel.control.asked(same.id)] == ["p0?", "r0?"]
    found = await travel.answer(same.id, {ids["p"]: "p", ids["r"]: "r"})
    assert (await travel.state(found.id))["trail"] == ["a", "p:p", "q:new", "r:r", "z"]
    rolled = await travel.branches.roll_back(asked.id, place, mode="as_it_stands", actor="me")
    assert rolled.head == place
    assert [q["value"] for q in await travel.control.asked(asked.id)] == ["p0?", "r0?"]


async def test_a_node_that_seeds_the_global_random_source_in_two_branches(
    travel: TravelBench,
) -> None:
    variants = {n: MARKED[n] for n in ("seed", "seed2")}
    version = await travel.register("tests.travels:seeding", variants=variants)
    random.seed(7)
    done = await travel.run(version, K)
    child = await fork(
        travel, done.id, await travel.at(done.id, 1), dict.fromkeys(variants, "other")
    )
    await travel.resume(child.id)
    await back(travel, done.id, 1)
    await travel.resume(done.id)
    marks = [(await travel.state(id))["trail"] for id in (done.id, child.id)]
    number = f"{random.Random(7).random():.3f}"
    assert marks == [
        ["a", f"plain {number}", "read plain", f"plain {number}"],
        ["a", f"! {number}", "read !!!!!", f"! {number}"],
    ]


async def test_swapped_code_takes_over_from_the_next_step_on(travel: TravelBench) -> None:
    version = await travel.register("tests.travels:line", variants={"b": MARKED["b"]})
    newer = await travel.register("tests.travels:files", variants={"b": MARKED["b"]}, **TRACKED)
    id = await travel.create(version, K, breakpoints=("before:b", "before:c"))
    await travel.go(id)
    swap = travel.control.swap
    await swap(id, version, {"b": "other"}, fingerprints={"b": ("x", "y")}, actor="me")
    await travel.resume(id)
    assert (await travel.state(id))["trail"] == ["a", "b!"]
    await swap(id, newer, {}, fingerprints={"c": ("x", "y")}, actor="me")
    done = await travel.resume(id)
    assert (done.status, done.version) == (E.COMPLETED, newer.version)
    assert (await travel.state(id))["trail"] == ["a", "b!", "cc", "dcd"]
    assert await travel.files(id) == tree("cd"), "the new version tracks files"
    assert len(await travel.told(id, "node.swapped")) == 2


async def test_places_without_files_are_refused(travel: TravelBench) -> None:
    """Where only the newest trees are kept, an older state has no files any more to go with it."""
    few = {"file_tracking": FileTrackingConfig(max_snapshots=2)}
    version = await travel.register("tests.travels:files", **few)
    done = await travel.run(version, K)
    await asyncio.sleep(0)
    for step in (1, 2):
        with pytest.raises(errors.NoConsistentFiles) as refused:
            await back(travel, done.id, step)
        assert await travel.at(done.id, 3) in refused.value.details["nearest"]
        with pytest.raises(errors.NoConsistentFiles):
            await fork(travel, done.id, await travel.at(done.id, step))
    assert (await travel.get(done.id)).status == E.COMPLETED
    await back(travel, done.id, 3)
    assert (await travel.resume(done.id)).status == E.COMPLETED
    assert await travel.files(done.id) == tree("abcd")
    await back(travel, done.id, 0)
    assert await travel.files(done.id) == {}


@pytest.mark.parametrize("few", [None, 2])
async def test_a_changed_state_keeps_its_files(travel: TravelBench, few: int | None) -> None:
    tracked = {"file_tracking": FileTrackingConfig(max_snapshots=few)}
    version = await travel.register("tests.travels:files", **tracked)
    id = await travel.create(version, K, breakpoints=("after:b",))
    await travel.go(id)
    runner = await travel.runner(version.version)
    changed = await runner.change_state(id, {"trail": ["me"]}, None, False, "me")
    place = str(changed.head)
    assert await travel.files(id, place) == tree("ab")
    done = await travel.resume(id)
    assert (done.status, RAN["k"]) == (E.COMPLETED, [*"abcd"])
    if few is not None:  # those of step 2 are gone by now
        with pytest.raises(errors.NoConsistentFiles):
            await travel.branches.roll_back(id, place, actor="me")
        return
    await travel.branches.roll_back(id, place, actor="me")
    assert await travel.files(id) == tree("ab")
    assert (await travel.state(id))["trail"] == ["aa", "bab", "me"]
    assert (await travel.resume(id)).status == E.COMPLETED
    assert await travel.files(id) == tree("abcd")
    assert [s.source for s in await travel.steps(id)] == [
        "input",
        *["loop"] * 3,
        "update",
        *["loop"] * 2,
    ]


async def test_a_cell_of_an_ended_batch_is_forked_not_rolled_back(travel: TravelBench) -> None:
    version = await travel.register("tests.travels:line")
    done = await travel.run(version, K)
    async with travel.db.connection() as conn:
        await conn.execute(
            "INSERT INTO batches (id, project, version, status, bindings, variants, cases, cells,"
            " recursion_limit) VALUES ('b', 'travel', %s, 'COMPLETED', '[{}]', '{v}', 1, 1, 9)",
            (version.version,),
        )
        await conn.execute("UPDATE executions SET batch_id = 'b' WHERE id = %s", (done.id,))
    with pytest.raises(errors.Conflict, match="fork it"):
        await back(travel, done.id, 1)
    child = await fork(travel, done.id, await travel.at(done.id, 1))
    assert (await travel.resume(child.id)).status == E.COMPLETED


async def test_the_files_of_a_rollback_displace_nothing_for_good(
    travel: TravelBench, tmp_path: Path
) -> None:
    """Files that belong to no checkpoint yet are in the trash after a rollback."""
    version = await travel.register("tests.travels:failing", **TRACKED)
    failed = await travel.run(version, K)
    assert failed.status == E.FAILED
    await back(travel, failed.id, 1)
    assert (await travel.resume(failed.id)).status == E.COMPLETED
    (restore, *_) = await travel.store.files.restores(failed.id)
    assert restore.before is not None


async def test_a_subgraph_remembers_what_it_did_before_the_checkpoint_gone_back_to(
    travel: TravelBench,
) -> None:
    version = await travel.register("tests.forest:remembering")
    done = await travel.run(version, {"key": "k", "trail": []})
    places = {s.step: s.checkpoint_id for s in await travel.steps(done.id) if s.step >= 0}
    for step in (2, 0, 3, 1, 2):
        child = await fork(travel, done.id, places[step])
        await travel.branches.roll_back(done.id, places[step], actor="me")
        for id in (done.id, child.id):
            await travel.resume(id)
            assert (await travel.state(id))["left"] == [2], step
