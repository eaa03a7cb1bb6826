"""What every command does to an execution in every status: one table."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
import pytest_asyncio

from tests.integration.graph_bench import GraphBench
from wtb_ray import errors
from wtb_ray.db import Database
from wtb_ray.events import Cursor
from wtb_ray.model import Execution, ProjectVersion
from wtb_ray.states import ExecutionStatus as E
from wtb_ray.store import Store
from wtb_ray.store.executions import Settlement

Command = Callable[[Store, Execution, ProjectVersion], Awaitable[Any]]
ME: Final = "me"

COMMANDS: Final[dict[str, Command]] = {
    "pause": lambda s, e, v: s.control.pause(e.id, actor=ME),
    "resume": lambda s, e, v: s.control.resume(e.id, actor=ME),
    "step": lambda s, e, v: s.control.step(e.id, actor=ME),
    "retry": lambda s, e, v: s.control.retry(e.id, actor=ME),
    "stop": lambda s, e, v: s.executions.request_stop(e.id, actor=ME),
    "answer": lambda s, e, v: s.control.answer(e.id, {"i": 1}, actor=ME),
    "set_breakpoints": lambda s, e, v: s.control.set_breakpoints(e.id, ["before:finish"], actor=ME),
    "change_state": lambda s, e, v: s.control.hold(e.id),
    "swap": lambda s, e, v: s.control.swap(
        e.id, v, {}, fingerprints={"double": ("f", "g")}, actor=ME
    ),
    "rollback": lambda s, e, v: s.branches.roll_back(e.id, str(e.forked_at), actor=ME),
    "fork": lambda s, e, v: s.branches.fork(e.id, str(e.head), version=v, binding={}, actor=ME),
}

TABLE: Final = {
    #                   PENDING            RUNNING            PAUSED       COMPLETED  FAILED     CANCELLED
    "pause":           ("PAUSED",          "RUNNING pause",   None,        None,      None,      None),
    "resume":          (None,              None,              "PENDING",   None,      None,      None),
    "step":            (None,              None,              "PENDING step", None,   None,      None),
    "retry":           (None,              None,              None,        None,      "PENDING", None),
    "stop":            ("CANCELLED",       "RUNNING stop",    "CANCELLED", None,      None,      None),
    "answer":          (None,              None,              errors.Conflict, None,  None,      None),
    "set_breakpoints": ("PENDING",         "RUNNING",         "PAUSED",    None,      None,      None),
    "change_state":    (None,              None,              "PAUSED",    None,      None,      None),
    "swap":            (None,              None,              "PAUSED",    None,      None,      None),
    "rollback":        (None,              None,              "PAUSED",    "PAUSED",  "PAUSED",  "PAUSED"),
    "fork":            ("PENDING",         "RUNNING",         "PAUSED",    "COMPLETED", "FAILED", "CANCELLED"),
}  # fmt: skip
"""The status afterwards, with what the owner is asked for unless that is `run`; None: refused."""

PAIRS: Final = [
    (command, status, outcome)
    for command, outcomes in TABLE.items()
    for status, outcome in zip(E, outcomes, strict=True)
]
EVENTS: Final = {
    "pause": {"PENDING": "execution.paused", "RUNNING": "execution.pause_requested"},
    "resume": {"PAUSED": "execution.resumed"},
    "step": {"PAUSED": "execution.resumed"},
    "retry": {"FAILED": "execution.retried"},
    "stop": {
        "PENDING": "execution.cancelled",
        "RUNNING": "execution.stop_requested",
        "PAUSED": "execution.cancelled",
    },
    "set_breakpoints": dict.fromkeys(("PENDING", "RUNNING", "PAUSED"), "breakpoints.set"),
    "swap": {"PAUSED": "node.swapped"},
    "rollback": dict.fromkeys(
        ("PAUSED", "COMPLETED", "FAILED", "CANCELLED"), "execution.rolled_back"
    ),
}


@pytest_asyncio.fixture
async def source(db: Database) -> tuple[GraphBench, str, str]:
    """An execution that has ended, and its last checkpoint."""
    graphs = await GraphBench.make(db, "tests.toy:graph")
    ran = await graphs.execution({"x": 1})
    await ran.go()
    one = ran.assignment
    done = Settlement(ran.id, one.epoch, graphs.runner, "complete")
    assert await graphs.store.executions.settle([done]) == [None]
    assert one.head is not None
    return graphs, ran.id, one.head


def test_the_table_is_whole() -> None:
    assert set(TABLE) == set(COMMANDS)
    assert len(PAIRS) == len(COMMANDS) * len(E)


async def test_every_command_in_every_status(source: tuple[GraphBench, str, str]) -> None:
    graphs, id, head = source
    store, version = graphs.store, graphs.version
    for command, status, outcome in PAIRS:
        one = await store.branches.fork(id, head, version=version, binding={}, actor="me")
        async with store.db.connection() as conn:
            owner = graphs.runner if status == E.RUNNING else None
            params = (str(status), owner, one.id)
            await conn.execute(
                "UPDATE executions SET status = %s, owner = %s WHERE id = %s", params
            )
        before = await everything(store, one.id)
        pair = f"{command} of {status}"
        if isinstance(outcome, str):
            await COMMANDS[command](store, one, version)
            found = await store.executions.get(one.id)
            wanted, _, wish = outcome.partition(" ")
            assert (found.status, found.wanted) == (wanted, wish or "run"), pair
            told = (await types(store, one.id))[len(before[1]) :]
            expected = EVENTS.get(command, {}).get(str(status))
            assert expected is None or expected in told, pair
            continue
        refused = outcome or errors.InvalidTransition
        with pytest.raises(errors.Conflict) as e:
            await COMMANDS[command](store, one, version)
        assert type(e.value) is refused, pair
        if outcome is None:
            assert e.value.details["state"] == status, pair
        assert await everything(store, one.id) == before, pair


async def everything(store: Store, id: str) -> Any:
    branches = await store.branches.list(id)
    return await store.executions.get(id), await types(store, id), branches


async def types(store: Store, id: str) -> list[str]:
    return [row.type for row in await store.events.read(Cursor.START, 1000, execution_id=id)]


async def test_no_command_knows_an_unknown_execution(db: Database) -> None:
    graphs = await GraphBench.make(db, "tests.toy:graph")
    ran = await graphs.execution({"x": 1})
    made = await graphs.store.executions.get(ran.id)
    nobody = made.model_copy(update={"id": "e0", "forked_at": "c", "head": "c"})
    for command in COMMANDS.values():
        with pytest.raises(errors.UnknownExecution):
            await command(graphs.store, nobody, graphs.version)
