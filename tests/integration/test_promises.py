"""What the semantics of checkpoints, time travel and batches promise, a test for each promise.

Where another test shows a promise in full, it is named here instead; `T.` stands for `test_time_travel.`,
`H.` for `test_http_travel.`, `S.` for `test_scheduling.`, all beside this file.

| promise | shown by |
|---|---|
| 1 checkpoint | `test_a_checkpoint_knows_all_nodes_of_its_step`; files: `test_tracking.test_every_step_has_the_files_of_its_moment` |
| 2 rollback | `T.test_roll_back_to_entry_and_exit_and_forward_again`; unknown places: `H.test_graphs_that_do_not_fit_are_refused_by_name` |
| 3 rollback to a node | `test_a_node_is_gone_back_to_by_its_newest_run_also_beside_others` |
| 4 files on rollback | `T.test_files_go_with_rollback_and_fork` |
| 5 files made after the checkpoint | `test_files_made_later_go_to_the_trash_and_untracked_ones_stay`; none kept: `T.test_places_without_files_are_refused` |
| 6 resume | `test_http_control.test_it_goes_on_with_another_state`; in another process: `test_control.test_no_recovery_runs_on_past_a_pause_that_was_asked_for` |
| 7 fork | `H.test_a_fork_goes_on_with_another_variant`, `H.test_forks_with_another_state`; files: `T.test_files_go_with_rollback_and_fork` |
| 8 rollback and fork of many | `H.test_many_are_rolled_back_and_forked_at_once`; `test_of_many_one_that_breaks_changes_nothing_and_holds_up_nobody` |
| 9 variants | `test_a_variant_changes_its_node_and_nothing_around_it`, `S.test_a_matrix_runs_and_every_variant_really_changes_what_runs`; unknown names: `H.test_graphs_that_do_not_fit_are_refused_by_name` |
| 10 scores over cases | `test_a_score_is_what_its_scorer_gave_and_means_are_over_cases` |
| 11 cancellation | `test_of_a_stopped_batch_nothing_runs_on`; without end: `test_tracking.test_a_node_that_never_ends_is_left_behind_when_stopped` |
| 12 backpressure | `test_no_more_runs_than_there_is_room_and_no_room_stays_empty` |
| 13 timeouts of tasks | there are none |
| 14 failure inside an actor | `test_a_failure_is_none_of_the_successes_and_leaves_no_ghost`; deaths: `S.test_a_dead_runner_costs_nothing_but_time`; code that does not import: `test_scheduler_failures.test_code_that_fails_again_and_again_fails_its_batch` |
| 15 breakpoints and pause | `test_control.test_no_recovery_passes_a_breakpoint`, `test_control.test_a_running_execution_pauses_after_the_step_that_runs`; questions: `test_control.test_several_questions_answered_at_once` |
| 16 failure of a node | `test_a_failed_execution_names_its_node_and_keeps_what_came_before`; retry: `test_control.test_retry_goes_on_where_it_failed` |
| 17 results that are no JSON | `test_what_no_json_can_hold_is_kept_shown_and_gone_on_with` |
"""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import promised
from tests.integration.steering_bench import steering
from tests.integration.test_scheduling import SPEC, Bench, bench, cases
from tests.integration.travel_bench import TravelBench, back, fork, travel
from wtb_ray import files, results
from wtb_ray.api import TrashRestoreRequest
from wtb_ray.events import Cursor
from wtb_ray.model import Case, FileTrackingConfig, ProjectSpec, ScorerSpec, VariantSpec
from wtb_ray.objects import ObjectStore
from wtb_ray.states import CellStatus
from wtb_ray.states import ExecutionStatus as E
from wtb_ray.views import read_state

__all__ = ["bench", "travel"]

TRACKED = {"file_tracking": FileTrackingConfig()}
TRAIL: dict[str, Any] = {"trail": [], "count": 0}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing has run yet."""
    promised.RAN.clear()
    promised.GATE = asyncio.Event()
    promised.AT_ONCE.update(now=0, most=0)
    yield
    promised.GATE.set()


def spec_of(name: str) -> ProjectSpec:
    return ProjectSpec(name=name, entry=f"tests.promised:{name}")


def test_the_table_names_tests_that_exist() -> None:
    modules = {"T": "test_time_travel", "H": "test_http_travel", "S": "test_scheduling", "": ""}
    named = re.findall(r"`(?:(\w+)\.)?(test_\w+)`", __doc__ or "")
    assert len(named) > 20
    for short, test in named:
        module = modules.get(short, short) or Path(__file__).stem
        text = Path(__file__).with_name(f"{module}.py").read_text()
        assert f"def {test}(" in text, (module, test)


# --- checkpoints and going back to them ---


async def test_a_checkpoint_knows_all_nodes_of_its_step(travel: TravelBench) -> None:
    """Of a loop which one, of several at once every one; what ran is what was to come."""
    expected = {
        "cycle": [[], [], *[["work"], ["check"]] * 3],
        "parallel": [[], [], ["a"], ["b", "c"], ["d"]],
    }
    for shape, nodes in expected.items():
        version = await travel.register(f"tests.shapes:{shape}")
        done = await travel.run(version, TRAIL)
        steps = await travel.steps(done.id)
        assert [sorted(run.name for run in step.nodes) for step in steps] == nodes, shape
        assert [step.step for step in steps] == [*range(-1, len(steps) - 1)]
        assert len({step.checkpoint_id for step in steps}) == len(steps)
        following = [sorted(step.next_nodes) for step in steps]
        assert following == [["__start__"], *nodes[2:], []]
        told = [e["checkpoint_id"] for e in await travel.told(done.id, "step.completed")]
        assert told == [step.checkpoint_id for step in steps if step.step > 0]


async def test_a_node_is_gone_back_to_by_its_newest_run_also_beside_others(
    travel: TravelBench,
) -> None:
    version = await travel.register("tests.shapes:cycle")
    done = await travel.run(version, TRAIL)
    place = travel.branches.place_of_node
    whole = (await travel.state(done.id))["trail"]
    assert whole == ["work", "check"] * 3
    for found, step in (
        (await place(done.id, "work"), 5),
        (await place(done.id, "work", "entry"), 4),
    ):
        assert found == await travel.at(done.id, step)
        rolled = await travel.branches.roll_back(done.id, found, actor="me")
        assert (rolled.head_step, (await travel.state(done.id))["trail"]) == (step, whole[:step])
    assert await place(done.id, "work") == await travel.at(done.id, 3), "of what is not undone"
    assert (await travel.resume(done.id)).status == E.COMPLETED
    assert (await travel.state(done.id))["trail"] == whole

    version = await travel.register("tests.shapes:parallel")
    done = await travel.run(version, TRAIL)
    assert await place(done.id, "b") == await place(done.id, "c") == await travel.at(done.id, 2)
    await travel.branches.roll_back(done.id, await place(done.id, "c", "entry"), actor="me")
    assert sorted((await travel.steps(done.id))[-1].next_nodes) == ["b", "c"]


async def test_files_made_later_go_to_the_trash_and_untracked_ones_stay(
    travel: TravelBench,
) -> None:
    version = await travel.register("tests.promised:leftovers", **TRACKED)
    id = await travel.create(version, {}, breakpoints=("before:c",))
    assert (await travel.go(id)).reason == "breakpoint"
    await back(travel, id, 1)
    done = await travel.resume(id)
    assert done.reason == "breakpoint"
    saw = (await travel.state(id))["saw"]
    assert saw == [[], ["a.log", "a.txt", "b.log"]], "what `b` had made is gone, but for its log"
    assert await travel.files(id) == {"a.txt": "a 1", "b.txt": "b 2"}

    async with ObjectStore(travel.settings.objects()) as objects:
        restores = await travel.store.files.restores(id)
        [gone] = (await files.trash(objects, restores, 10, None)).items
        assert gone.entry.path == "b.txt"
        request = TrashRestoreRequest(restore_id=gone.restore_id)
        await files.restore_trash(travel.store, objects, id, request, actor="me")
    assert await travel.files(id) == {"a.txt": "a 1", "b.txt": "b 1"}


async def test_of_many_one_that_breaks_changes_nothing_and_holds_up_nobody(
    url: str, tmp_path: Path
) -> None:
    """The database refuses the event of one of them: its change goes with it, the others stay."""
    async with steering(url, tmp_path) as bench:
        ids = [await bench.start() for _ in range(3)]
        for id in ids:
            await bench.rest(id)
        async with bench.http.context.db.connection() as conn:
            await conn.execute(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE EXCEPTION 'not this one'; END $$"
            )
            await conn.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW WHEN"
                f" (NEW.execution_id = '{ids[1]}' AND NEW.type = 'execution.rolled_back')"
                " EXECUTE FUNCTION refuse()"
            )
        before = await bench.everything(ids[1])
        items = [{"command": "rollback", "execution_id": id, "node": "first"} for id in ids]
        outcomes = (await bench.post("/executions/batch", {"items": items}))["items"]
        assert [outcome["ok"] for outcome in outcomes] == [True, False, True]
        assert outcomes[1]["error"]["code"] == "wtb_error"
        assert "not this one" not in str(outcomes[1]["error"]), "that is for the log"
        shown = {item["id"]: item for item in before[0]}
        after = {item["id"]: item for item in (await bench.everything(ids[1]))[0]}
        assert after[ids[1]] == shown[ids[1]]
        assert await bench.http.get(f"/executions/{ids[1]}/branches") == before[1]
        for id in (ids[0], ids[2]):
            assert await bench.done(id) == ["first"]
            assert (await bench.types(id)).count("execution.rolled_back") == 1


# --- batches ---


async def test_a_variant_changes_its_node_and_nothing_around_it(bench: Bench) -> None:
    """Routes and retries are those of the node; what ran is known by its fingerprint."""
    flaky = {"flaky": VariantSpec(implementation="tests.promised:flaky")}
    version = await bench.register(
        spec_of("routed").model_copy(update={"variants": {"first": flaky}})
    )
    [node] = [node for node in version.graph.nodes if node.name == "first"]
    assert node.fingerprint != node.variants["flaky"]
    batch = await bench.batch(version, [{}, {"first": "flaky"}], cases(2))
    assert (await bench.ended(batch)).counts == {"DONE": 4}
    saw = {}
    for row in (await bench.store.cells.list(batch.id, 10)).items:
        execution = await bench.store.executions.get(row.execution_id or "")
        steps = await bench.store.executions.steps(execution.id)
        state = await read_state(bench.store.db, execution.thread_id, execution.head or "")
        saw[row.variant, row.case_id] = state["saw"]
        assert [run.name for run in steps[0].nodes] == state["saw"][1:]
        assert execution.binding == ({} if row.variant == "default" else {"first": "flaky"})
    assert saw == {
        ("default", "c0"): ["first", "even"],
        ("default", "c1"): ["first", "odd"],
        ("first=flaky", "c0"): ["flaky", "odd"],
        ("first=flaky", "c1"): ["flaky", "even"],
    }
    assert dict(promised.RAN) == {"flaky 0": 2, "flaky 1": 2}


async def test_a_score_is_what_its_scorer_gave_and_means_are_over_cases(bench: Bench) -> None:
    version = await bench.register(SPEC)
    scorers = (
        ScorerSpec(name="tests.promised:told"),
        ScorerSpec(name="exact", args={"field": "y"}),
    )
    batch = await bench.batch(
        version, [{}, {"double": "triple"}], cases(4), scorers=scorers, repetitions=3
    )
    assert (await bench.ended(batch)).counts == {"DONE": 24}
    rows = (await bench.store.cells.list(batch.id, 100)).items
    found = {(r.variant, r.case_id, r.repetition): r.scores for r in rows}
    factors = {"default": 2, "double=triple": 3}
    assert found == {
        (variant, f"c{x}", repetition): {
            "told": factor * x / 1000,
            "exact": float(factor * x == 2 * x),
        }
        for variant, factor in factors.items()
        for x in range(4)
        for repetition in range(3)
    }
    async with ObjectStore(bench.settings.objects()) as objects:
        board = await results.compute_leaderboard(bench.store.db, objects, batch.id)
    assert board.complete
    for row in board.rows:
        means = {
            metric.metric: (metric.cases, round(metric.mean or 0, 9)) for metric in row.metrics
        }
        factor = factors[row.variant]
        assert means["told"] == (4, round(factor * 1.5 / 1000, 9))
        assert means["exact"] == (4, 1.0 if factor == 2 else 0.25)


async def test_of_a_stopped_batch_nothing_runs_on(bench: Bench) -> None:
    version = await bench.register(spec_of("gated"))
    batch = await bench.batch(version, [{}], cases(100))
    async with asyncio.timeout(30):
        while promised.RAN["one"] < 10:
            await asyncio.sleep(0.02)
    stopped = await bench.store.batches.stop(batch.id, "enough", actor="me")
    assert stopped.status == "CANCELLED"
    begun = promised.RAN["one"]
    promised.GATE.set()
    async with asyncio.timeout(30):
        while (await bench.store.batches.get(batch.id)).counts != {"CANCELLED": 100}:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.5)
    assert dict(promised.RAN) == {"one": begun}, "no second step, and no further execution"
    page = await bench.store.executions.list(500, batch_id=batch.id)
    assert {e.status for e in page.items} == {E.CANCELLED}
    told = await bench.store.events.read(Cursor.START, 5000, batch_id=batch.id)
    ends = [e.type for e in told if e.type.startswith("batch.")]
    assert ends == ["batch.created", "batch.started", "batch.cancelled"]
    assert len([e for e in told if e.type == "execution.cancelled"]) == len(page.items)


async def test_no_more_runs_than_there_is_room_and_no_room_stays_empty(bench: Bench) -> None:
    room = bench.settings.runner_slots * bench.settings.runners_per_pool
    version = await bench.register(spec_of("crowded"))
    batch = await bench.batch(version, [{}], cases(600))
    most, seen = 0, await bench.store.batches.get(batch.id)
    async with asyncio.timeout(60):
        while seen.ended_at is None:
            open_ = await bench.store.db.row(
                "SELECT count(*) AS n FROM executions WHERE status IN ('PENDING', 'RUNNING')"
            )
            most = max(most, open_["n"] if open_ is not None else 0)
            await asyncio.sleep(0.01)
            seen = await bench.store.batches.get(batch.id)
    assert seen.counts == {"DONE": 600}
    assert promised.AT_ONCE["most"] <= room
    assert most <= 2 * room, "executions are made when there is room for them, or soon will be"
    assert len(bench.runners.runners) == 2, "as many as may be, since more waited than one takes"


async def test_a_failure_is_none_of_the_successes_and_leaves_no_ghost(bench: Bench) -> None:
    version = await bench.register(SPEC)
    rows = [*cases(3), Case(id="bad", input={"x": -1}, expected=-2)]
    scorers = (ScorerSpec(name="exact", args={"field": "y"}),)
    batch = await bench.batch(version, [{}], rows, scorers=scorers)
    ended = await bench.ended(batch)
    assert (ended.status, ended.counts) == ("COMPLETED", {"DONE": 3, "FAILED": 1})
    [failed] = (await bench.store.cells.list(batch.id, 10, status=CellStatus.FAILED)).items
    assert (failed.case_id, failed.scores) == ("bad", {})
    assert (failed.error or {})["node"] == "double"
    executions = (await bench.store.executions.list(50)).items
    assert sorted(e.status for e in executions) == [*[E.COMPLETED] * 3, E.FAILED]
    cells = (await bench.store.cells.list(batch.id, 10)).items
    assert {cell.execution_id for cell in cells} == {e.id for e in executions}
    async with ObjectStore(bench.settings.objects()) as objects:
        board = await results.compute_leaderboard(bench.store.db, objects, batch.id)
    [row] = board.rows
    assert (row.errors, row.metrics[0].cases, row.metrics[0].mean) == (1, 4, 0.75)


# --- single runs ---


async def test_a_failed_execution_names_its_node_and_keeps_what_came_before(
    travel: TravelBench,
) -> None:
    version = await travel.register("tests.travels:failing")
    given = {"key": "k", "trail": [], "count": 7}
    failed = await travel.run(version, given)
    assert failed.status == E.FAILED
    fault = failed.error
    assert fault is not None
    assert (fault.code, fault.node, fault.type) == ("node_failed", "fail", "ValueError")
    assert (fault.message, fault.attempt) == ("not yet", 1)
    assert "travels.py" in (fault.traceback or "")
    assert await travel.state(failed.id) == {**given, "trail": ["a"]}
    assert (await travel.steps(failed.id))[-1].next_nodes == ("fail", "quick")
    [told] = await travel.told(failed.id, "execution.failed")
    assert told["error"]["node"] == "fail"


async def test_what_no_json_can_hold_is_kept_shown_and_gone_on_with(travel: TravelBench) -> None:
    """Messages, models, decimals and times: in another process they are what they were."""
    version = await travel.register("tests.promised:keeping")
    done = await travel.run(version, {})
    assert (done.status, done.error) == (E.COMPLETED, None)
    shown = await travel.state(done.id)
    assert shown["saw"] == [True, "HumanMessage", "AIMessage"]
    assert shown["grade"]["points"] == 0.5
    assert shown["grade"]["__type__"] == "tests.promised.Grade"
    assert [message["content"] for message in shown["messages"]] == ["how much?", "0.10"]
    assert shown["price"] == {"__type__": "decimal.Decimal", "value": "0.10"}
    assert shown["place"] == {"__type__": "tests.promised.Place", "row": 3}
    assert shown["at"] == {"__type__": "datetime.datetime", "value": promised.MOMENT.isoformat()}

    child = await fork(travel, done.id, await travel.at(done.id, 1))
    await travel.crash(version.version)
    assert (await travel.resume(child.id)).status == E.COMPLETED
    assert await travel.state(child.id) == shown
