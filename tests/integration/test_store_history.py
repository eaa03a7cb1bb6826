"""Random commands from several processes at once: the log always tells a legal history.

The event log of every execution, cell and batch is replayed by the tables of `states.py`, in the
log's order, and ends in what the rows say.
"""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.integration.store_bench import RIGHT, StoreBench
from wtb_ray import errors, states
from wtb_ray.db import Database
from wtb_ray.events import Cursor, EventRow
from wtb_ray.model import Assignment, Fault
from wtb_ray.states import BatchStatus, CellStatus, ExecutionStatus
from wtb_ray.store import Store
from wtb_ray.store.executions import Settlement
from wtb_ray.store.settlements import COMMANDS

PROCESSES = 3
EXECUTION_COMMANDS = {
    "execution.started": "start",
    "execution.requeued": "requeue",
    "execution.paused": "pause",
    "execution.completed": "complete",
    "execution.failed": "fail",
    "execution.cancelled": "stop",
    "execution.resumed": "resume",
    "execution.retried": "retry",
    "execution.rolled_back": "rollback",
}
ASKED = ("execution.stop_requested", "execution.pause_requested")
BATCH_COMMANDS = {
    "batch.started": "start",
    "batch.completed": "complete",
    "batch.cancelled": "stop",
    "batch.failed": "fail",
}
FAULT = Fault(code="node_failed", type="ValueError", message="no")
ACTIONS = (
    ["admit"] * 3 + ["claim"] * 4 + ["settle"] * 6 + ["scoring", "stop", "stop_batch", "close_batches"]
    + ["bury", "restart", "create", "batch", "abandon"]
)  # fmt: skip


class Replay:
    """The statuses that the log leads to."""

    def __init__(self, cells: dict[int, str]):
        self.executions: dict[str, ExecutionStatus] = {}
        self.batches: dict[str, BatchStatus] = {}
        self.cells: dict[int, CellStatus] = dict.fromkeys(cells, CellStatus.PENDING)
        self.batch_of = cells
        self.members: dict[str, list[int]] = {}

    def feed(self, event: EventRow) -> None:
        noun, _, what = event.type.partition(".")
        if noun == "execution":
            self.execution(str(event.execution_id), event.type)
        elif noun == "batch":
            self.batch(str(event.batch_id), event.type)
        elif noun == "cell":
            ended = {"scored": ExecutionStatus.COMPLETED, "failed": ExecutionStatus.FAILED}[what]
            assert self.executions[str(event.execution_id)] == ended
            for command in {"scored": ("score", "done"), "failed": ("fail",)}[what]:
                self.cell(event.payload["cell"], command)

    def execution(self, id: str, type: str) -> None:
        members = self.members.get(id, ())
        if type == "execution.created":
            assert id not in self.executions
            self.executions[id] = ExecutionStatus.PENDING
            for cell in members:
                self.cell(cell, "start")
            return
        if type in ASKED:
            assert self.executions[id] == ExecutionStatus.RUNNING
            return
        sources, to = states.EXECUTION[EXECUTION_COMMANDS[type]]
        assert self.executions[id] in sources, f"{type} of {id} in {self.executions[id]}"
        self.executions[id] = to
        for cell in members if to == ExecutionStatus.CANCELLED else ():
            self.cell(cell, "cancel")

    def batch(self, id: str, type: str) -> None:
        if type == "batch.created":
            assert id not in self.batches
            self.batches[id] = BatchStatus.PENDING
            return
        sources, to = states.BATCH[BATCH_COMMANDS[type]]
        assert self.batches[id] in sources, f"{type} of {id} in {self.batches[id]}"
        self.batches[id] = to
        if type in ("batch.cancelled", "batch.failed"):
            for cell, status in self.cells.items():
                if self.batch_of[cell] == id and status == CellStatus.PENDING:
                    self.cell(cell, "cancel")

    def cell(self, cell: int, command: str) -> None:
        sources, to = states.CELL[command]
        assert self.cells[cell] in sources, f"{command} of cell {cell} in {self.cells[cell]}"
        self.cells[cell] = to


class Processes:
    """Several stores on pools of their own, and what their clients remember."""

    def __init__(self, url: str, seed: int):
        self.pools = [Database(url, size=2) for _ in range(PROCESSES)]
        self.random = random.Random(seed)
        self.project = f"p{uuid.uuid4().hex}"
        self.benches: list[StoreBench] = []
        self.epochs: dict[str, int] = {}
        self.held: list[tuple[str, Assignment]] = []
        self.batches: list[str] = []
        self.followed: list[EventRow] = []

    async def open(self) -> None:
        for pool in self.pools:
            await pool.open()
            self.benches.append(await StoreBench.make(pool, self.project))
        self.cursor = await self.benches[0].store.events.latest()
        await self.batch(self.benches[0])
        for name in ("r1", "r2"):
            await self.restart(self.benches[0], f"{self.project}.{name}")

    async def close(self) -> None:
        for pool in self.pools:
            await pool.close()

    async def together(self, actions: list[str]) -> None:
        """One command of each, all at once, while the log is followed."""
        calls = [self._act(self.random.choice(self.benches), action) for action in actions]
        await asyncio.gather(*calls, self.follow())

    async def follow(self) -> None:
        for page in [await self.benches[0].store.events.read(self.cursor, 20) for _ in "x"]:
            self.followed += page
            if page:
                self.cursor = Cursor.parse(page[-1].cursor)

    async def _act(self, bench: StoreBench, action: str) -> None:
        act: Callable[[StoreBench], Awaitable[Any]] = getattr(self, action)
        with suppress(errors.InvalidTransition, errors.Fenced):  # it came too late
            await act(bench)

    async def create(self, bench: StoreBench) -> None:
        await bench.execution(priority=self.random.randint(0, 2))

    async def batch(self, bench: StoreBench) -> None:
        if len(self.batches) < 3:
            started = self.random.random() < 0.8
            self.batches.append((await bench.batch(cases=4, started=started)).id)

    async def admit(self, bench: StoreBench) -> None:
        batch = self.random.choice(self.batches)
        await bench.store.executions.admit(batch, self.random.randint(1, 4), actor="s")

    async def claim(self, bench: StoreBench) -> None:
        owner = self.random.choice(list(self.epochs))
        solo = self.random.random() < 0.3
        claimed = await bench.claim(owner, self.epochs[owner], self.random.randint(1, 4), solo=solo)
        self.held += [(owner, a) for a in claimed]

    async def settle(self, bench: StoreBench) -> None:
        chosen = self.random.sample(self.held, min(len(self.held), self.random.randint(1, 5)))
        items = [
            Settlement(
                held.execution_id,
                held.epoch,
                owner,
                self.random.choice(list(COMMANDS)),
                fault=FAULT,
                reason="because",
                scores=RIGHT,
            )
            for owner, held in chosen
        ]
        answers = await bench.store.executions.settle(items, max_attempts=3)
        assert {type(answer) for answer in answers} <= {type(None), errors.Fenced}

    async def scoring(self, bench: StoreBench) -> None:
        if self.held:
            owner, held = self.random.choice(self.held)
            await bench.store.executions.scoring(held.execution_id, held.epoch, owner)

    async def stop(self, bench: StoreBench) -> None:
        if self.held:
            _, held = self.random.choice(self.held)
            await bench.store.executions.request_stop(held.execution_id, actor="me")

    async def stop_batch(self, bench: StoreBench) -> None:
        if self.random.random() < 0.4:
            await bench.store.batches.stop(self.random.choice(self.batches), None, actor="me")

    async def close_batches(self, bench: StoreBench) -> None:
        await bench.store.batches.close(actor="s")

    async def bury(self, bench: StoreBench) -> None:
        owner = self.random.choice(list(self.epochs))
        await bench.store.leases.bury(owner, self.epochs[owner], "died", actor="l", max_attempts=3)

    async def restart(self, bench: StoreBench, owner: str | None = None) -> None:
        owner = owner or self.random.choice(list(self.epochs))
        self.epochs[owner] = await bench.runner(owner)

    async def abandon(self, bench: StoreBench) -> None:
        if self.random.random() < 0.2:
            error = errors.EntryFailed("no")
            await bench.store.executions.abandon(bench.version.version, error, actor="s")


async def check(processes: Processes, store: Store) -> None:
    """The log, replayed, is legal and ends in the rows; the follower has seen all of it."""
    db, project = store.db, processes.project
    cells = await db.rows(
        "SELECT c.id, c.status, c.batch_id, c.execution_id FROM cells c"
        " JOIN batches b ON b.id = c.batch_id WHERE b.project = %s",
        (project,),
    )
    replay = Replay({row["id"]: row["batch_id"] for row in cells})
    for row in cells:
        replay.members.setdefault(str(row["execution_id"]), []).append(row["id"])
    log = [e for e in await store.events.read(Cursor.START, 100_000) if e.project == project]
    for event in log:
        replay.feed(event)
    for table, replayed in (("executions", replay.executions), ("batches", replay.batches)):
        rows = await db.rows(
            f"SELECT id, status FROM {table} WHERE project = %s",
            (project,),
        )
        assert {row["id"]: row["status"] for row in rows} == replayed
    scoring = {CellStatus.SCORING: CellStatus.RUNNING}
    assert {row["id"]: scoring.get(row["status"], row["status"]) for row in cells} == replay.cells
    before = -1
    while before != len(processes.followed):
        before = len(processes.followed)
        await processes.follow()
    seen = [e.cursor for e in processes.followed if e.project == project]
    assert seen == [e.cursor for e in log][-len(seen) :]
    scores = await db.rows(
        "SELECT s.cell_id FROM scores s JOIN batches b ON b.id = s.batch_id WHERE b.project = %s",
        (project,),
    )
    done = {cell for cell, status in replay.cells.items() if status == CellStatus.DONE}
    assert sorted(row["cell_id"] for row in scores) == sorted(done)


def test_the_log_replays_to_the_rows(url: str) -> None:
    class Commands(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.runner = asyncio.Runner()
            self.processes: Processes | None = None

        @rule(seed=st.integers(0, 2**16), actions=st.lists(st.sampled_from(ACTIONS), max_size=8))
        def run_together(self, seed: int, actions: list[str]) -> None:
            if self.processes is None:
                self.processes = Processes(url, seed)
                self.runner.run(self.processes.open())
            self.processes.random.seed(seed)
            self.runner.run(self.processes.together([*actions, "claim", "settle"]))

        def teardown(self) -> None:
            with self.runner:
                if self.processes is not None:
                    try:
                        self.runner.run(check(self.processes, self.processes.benches[0].store))
                    finally:
                        self.runner.run(self.processes.close())

    run_state_machine_as_test(
        Commands,
        settings=settings(
            max_examples=12,
            stateful_step_count=15,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
