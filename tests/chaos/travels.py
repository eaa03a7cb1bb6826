"""Executions that are paused, stepped, rolled back, forked and stopped while processes die around them.

Whoever commands them is a user with the SDK: what was answered has happened, once; what was not
answered may have happened; what was refused has not. In the end all of them are brought to their
end, and their results and histories are those of executions that nobody disturbed.
"""

import random
import time
from collections import Counter
from pathlib import Path

from tests.stack import Stack
from wtb_ray import errors
from wtb_ray.sdk import WTBTestBench
from wtb_ray.states import ExecutionStatus as E

MOST = 8
"""Executions at once."""
FIRST = 100_000
"""Their inputs are apart from those of test cases."""
PATIENCE_S = 180.0
INFRASTRUCTURE = ("runner_died", "infrastructure")


class Travels:
    """Some executions of one project, and what was done to them."""

    def __init__(self, bench: WTBTestBench, stack: Stack, chance: random.Random, trace: Path):
        self.bench, self.stack, self.chance, self.trace = bench, stack, chance, trace
        self.ids: list[str] = []
        self.x: dict[str, int] = {}
        self.said: list[str] = []
        self.commands: Counter[str] = Counter()
        self.forks: Counter[str] = Counter()
        """Forks that were answered, by source."""
        self.unsure: Counter[str] = Counter()
        """Forks of which nobody knows."""

    def start(self) -> None:
        """One more execution; nobody knows of those whose start was not answered."""
        given = {"x": FIRST + len(self.x), "trace": str(self.trace), "seconds": 0.3}
        try:
            made = self.bench.run("faults", given, wait=False)
        except errors.Unavailable:
            return
        self._add(made.id, FIRST + len(self.x))

    def _add(self, id: str, x: int) -> None:
        self.ids.append(id)
        self.x[id] = x

    def command(self) -> None:
        """A random command on a random one of them; what does not apply is refused."""
        if not self.ids:
            self.start()
            return
        id = self.chance.choice(self.ids)
        moves = [self._pause, self._resume, self._step, self._back, self._fork, self._stop]
        move = self.chance.choice(moves)
        said = f"{time.monotonic():.2f} {move.__name__} {id}"
        try:
            move(id)
        except errors.Conflict as e:
            said += f": {e.message}"
        except errors.Unavailable as e:
            said += f": nobody knows ({e.message})"
            self.unsure[id] += move == self._fork
        else:
            self.commands[move.__name__] += 1
        self.said.append(said)

    def _pause(self, id: str) -> None:
        self.bench.pause(id, wait=False)

    def _resume(self, id: str) -> None:
        self.bench.resume(id, wait=False)

    def _step(self, id: str) -> None:
        self.bench.step(id, wait=False)

    def _stop(self, id: str) -> None:
        self.bench.stop(id, "chaos")

    def _back(self, id: str) -> None:
        places = self.bench.get_checkpoints(id)
        if places:
            self.bench.rollback(id, self.chance.choice(places).id, pause=True)

    def _fork(self, id: str) -> None:
        places = self.bench.get_checkpoints(id)
        if places and len(self.ids) < MOST:
            place = self.chance.choice(places).id
            made = self.bench.fork(id, place, run=self.chance.random() < 0.5, wait=False)
            self._add(made.id, self.x[id])
            self.forks[id] += 1

    def finish(self) -> None:
        """Brings all of them to their end, whatever state they were left in."""
        deadline = time.monotonic() + PATIENCE_S
        left = set(self.ids)
        while left:
            for id in sorted(left):
                try:
                    if self._ended(id):
                        left.discard(id)
                except (errors.Unavailable, errors.Conflict):
                    continue  # what died is still on its way back, or it has just moved
            assert time.monotonic() < deadline, self._lost(left)
            time.sleep(0.1)

    def _ended(self, id: str) -> bool:
        found = self.bench.get_execution(id)
        match found.status:
            case E.PAUSED:
                self.bench.resume(id, wait=False)
            case E.FAILED:
                assert found.error is not None
                assert found.error.code in INFRASTRUCTURE, found.error
                self.bench.retry(id, wait=False)
            case E.CANCELLED:
                places = self.bench.get_checkpoints(id)
                if not places:  # stopped before it began
                    return True
                self.bench.rollback(id, self.chance.choice(places).id)
            case E.COMPLETED:
                assert found.state["total"] == (self.x[id] + 1) * 2, found.state
                return True
        return False

    def _lost(self, left: set[str]) -> str:
        rows = self.stack.rows("SELECT * FROM executions WHERE id = ANY(%s)", (sorted(left),))
        return "\n".join([f"lost: {rows}", *self.said])

    def check(self) -> None:
        """All histories are whole, every fork is there once, and nothing is held by two."""
        self._whole(self._all())
        for id in self.ids:
            steps = [place.step for place in reversed(self.bench.get_checkpoints(id))]
            assert steps in ([-1, 0, 1, 2, 3], []), (id, steps, self.said)
            children = self.stack.rows(
                "SELECT count(*) AS n FROM executions WHERE forked_from = %s", (id,)
            )[0]["n"]
            sure = self.forks[id]
            assert sure <= children <= sure + self.unsure[id], (id, children, self.said)

    def _all(self) -> list[str]:
        """Those that nobody knows of included."""
        rows = self.stack.rows(
            "SELECT id FROM executions WHERE project = 'faults' AND batch_id IS NULL"
        )
        return [row["id"] for row in rows]

    def _whole(self, ids: list[str]) -> None:
        for name, sql in TORN.items():
            found = self.stack.rows(sql, {"ids": ids})
            assert not found, (name, found[:5], self.said)


TORN: dict[str, str] = {
    "a branch's steps follow each other, and what it began with": """
        SELECT b.thread_id, o.step AS began, array_agg(s.step ORDER BY s.step) AS steps
        FROM branches b
        LEFT JOIN LATERAL (
            SELECT step FROM steps WHERE checkpoint_id = b.parent_checkpoint LIMIT 1) o ON true
        JOIN steps s ON s.thread_id = b.thread_id
        WHERE b.execution_id = ANY(%(ids)s)
        GROUP BY b.thread_id, o.step
        HAVING min(s.step) <> coalesce(o.step + 1, -1)
            OR max(s.step) - min(s.step) + 1 <> count(*)""",
    "checkpoints that are neither a step nor what a branch began with": """
        SELECT c.thread_id, c.checkpoint_id FROM checkpoints c
        JOIN branches b USING (thread_id)
        LEFT JOIN steps s USING (thread_id, checkpoint_id)
        WHERE b.execution_id = ANY(%(ids)s) AND c.checkpoint_ns = ''
          AND s.step IS NULL AND c.checkpoint_id IS DISTINCT FROM b.parent_checkpoint""",
    "steps without their checkpoint": """
        SELECT s.thread_id, s.checkpoint_id FROM steps s
        JOIN branches b USING (thread_id)
        LEFT JOIN checkpoints c ON c.thread_id = s.thread_id
            AND c.checkpoint_id = s.checkpoint_id AND c.checkpoint_ns = ''
        WHERE b.execution_id = ANY(%(ids)s) AND c.checkpoint_id IS NULL""",
    "heads that are not the newest checkpoint of their branch": """
        SELECT e.id, e.head FROM executions e
        LEFT JOIN LATERAL (
            SELECT checkpoint_id FROM steps s WHERE s.thread_id = e.thread_id
            ORDER BY s.step DESC LIMIT 1) n ON true
        JOIN branches b ON b.thread_id = e.thread_id
        WHERE e.id = ANY(%(ids)s)
          AND e.head IS DISTINCT FROM coalesce(n.checkpoint_id, b.parent_checkpoint)""",
    "super-steps that two branches have made under one checkpoint": """
        SELECT s.checkpoint_id FROM steps s JOIN branches b USING (thread_id)
        WHERE b.execution_id = ANY(%(ids)s) GROUP BY s.checkpoint_id HAVING count(*) > 1""",
    "steps that the log does not tell once": """
        SELECT s.checkpoint_id, count(v.seq) FROM steps s JOIN branches b USING (thread_id)
        LEFT JOIN events v ON v.execution_id = b.execution_id AND v.type = 'step.completed'
            AND v.payload::json ->> 'checkpoint_id' = s.checkpoint_id
        WHERE b.execution_id = ANY(%(ids)s) AND s.step > 0
        GROUP BY s.checkpoint_id HAVING count(v.seq) <> 1""",
}
"""What must give no row."""
