"""Random programs of commands over random graphs, held against LangGraph running alone.

What an execution must look like is known from the bindings under which its super-steps ran: one
unbroken run of plain LangGraph on one thread, whose nodes add at each step what the binding of that
step says, gives all states, next nodes, and deeds of nodes, step by step.
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, NamedTuple

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from tests import machines
from tests.integration.travel_bench import TravelBench, fork
from tests.machines import DONE, HELD, PLAIN, WAITING
from wtb_ray import errors
from wtb_ray.model import Execution, FileTrackingConfig, Step, new_id
from wtb_ray.states import ExecutionStatus as E
from wtb_ray.store.branches import Mode

LIMIT = 200
Binding = dict[str, str]
Schedule = tuple[tuple[int, tuple[tuple[str, str], ...]], ...]
"""From which head on which binding holds, oldest first."""


class Place(NamedTuple):
    """A checkpoint of plain LangGraph."""

    state: dict[str, Any]
    next: list[str]
    """In order of their names: LangGraph shows them in another one than it runs them in."""
    deeds: Counter[tuple[str, str]]
    """What its super-step did."""


def binding_at(schedule: Schedule, step: int) -> Binding:
    """The binding of the super-step that ends in this one."""
    *_, last = takewhile(lambda since: since[0] < step, schedule)
    return dict(last[1])


class Plain:
    """LangGraph alone, on one thread."""

    def __init__(self, seed: int, key: str, tracked: bool):
        self.seed, self.given = seed, {"key": key, "files": tracked, "trail": [], "sums": {}}
        self.known: dict[Schedule, dict[int, Place]] = {}

    async def run(self, schedule: Schedule) -> dict[int, Place]:
        if schedule not in self.known:
            self.known[schedule] = await self._run(schedule)
        return self.known[schedule]

    async def _run(self, schedule: Schedule) -> dict[int, Place]:
        key = new_id("plain")
        deeds: dict[int, Counter[tuple[str, str]]] = {}

        class Marking(InMemorySaver):
            async def aput(self, config: Any, checkpoint: Any, metadata: Any, new: Any) -> Any:
                if not config["configurable"].get("checkpoint_ns"):
                    deeds[metadata["step"]] = Counter(DONE.pop(key, []))
                return await super().aput(config, checkpoint, metadata, new)

        graph = machines.Made(self.seed).builder.compile(checkpointer=Marking())
        config: Any = {"configurable": {"thread_id": "1"}, "recursion_limit": LIMIT}
        token = PLAIN.set(lambda step, name: machines.by_of(binding_at(schedule, step), name))
        try:
            given: Any = {**self.given, "key": key}
            while True:
                await graph.ainvoke(given, config, durability="sync")
                asked = (await graph.aget_state(config)).interrupts
                if not asked:
                    break
                given = Command(resume={i.id: machines.answer(i.value) for i in asked})
        finally:
            PLAIN.reset(token)
        return {
            found.metadata["step"]: Place(
                {**found.values, "key": self.given["key"]} if found.values else {},
                sorted(found.next),
                deeds[found.metadata["step"]],
            )
            async for found in graph.aget_state_history(config)
            if found.metadata
        }


@dataclass
class Model:
    """What is known of one execution."""

    id: str
    schedule: Schedule
    parent: "str | None" = None


@dataclass
class Program:
    """One random program; everything it does and finds is in `said`."""

    travel: TravelBench
    seed: int
    kills: bool
    tracked: bool
    said: list[str] = field(default_factory=list)
    models: dict[str, Model] = field(default_factory=dict)
    schedules: dict[str, Schedule] = field(default_factory=dict)
    """By checkpoint: how it was come to."""
    loose: bool = False
    """Deeds of a step were left behind before it ended, and are in no history."""
    seen: dict[tuple[str, str], Step] = field(default_factory=dict)
    """All steps ever stored, by thread and checkpoint."""

    async def run(self, commands: int) -> None:
        self.chance = random.Random(self.seed * 1000 + commands)
        self.key = new_id("k")
        spec: dict[str, Any] = {"variants": machines.variants(self.seed)}
        if self.tracked:
            spec["file_tracking"] = FileTrackingConfig()
        self.version = await self.travel.register(f"tests.machines:g{self.seed}", **spec)
        self.nodes = sorted(spec["variants"])
        self.plain = Plain(self.seed, self.key, self.tracked)
        HELD.clear()
        binding = self.any_binding()
        id = await self.travel.create(
            self.version, self.plain.given, binding, recursion_limit=LIMIT
        )
        self.models[id] = Model(id, ((-3, tuple(sorted(binding.items()))),))
        if self.chance.random() < 0.5:
            await self.travel.control.pause(id, actor="me")
        try:
            for _ in range(commands):
                await self.command(self.chance.choice(list(self.models.values())))
            for model in list(self.models.values()):
                await self.finish(model)
            await self.check_deeds()
        except BaseException as e:
            e.add_note("\n".join([f"seed {self.seed}", *self.said]))
            raise
        finally:
            HELD.clear()

    def any_binding(self) -> Binding:
        return {
            name: self.chance.choice(["two", "five"])
            for name in self.nodes
            if self.chance.random() < 0.2
        }

    def say(self, *what: object) -> None:
        self.said.append(" ".join(map(str, what)))

    # --- commands ---

    async def command(self, model: Model) -> None:
        found = await self.travel.get(model.id)
        choices = {
            E.PENDING: [self.go, self.disturb, self.disturb, self.pause],
            E.PAUSED: [
                *(self.resume, self.resume, self.step, self.step, self.disturb, self.disturb),
                *(self.back, self.swap, self.fork, self.stop, self.breakpoint),
            ],
            E.FAILED: [self.retry],
        }.get(found.status, [self.back, self.back, self.fork])
        do = self.chance.choice(choices)
        self.say(do.__name__, model.id[-4:], found.status, found.head_step, found.reason)
        await do(model, found)
        await self.settled()

    async def go(self, model: Model, found: Execution) -> None:
        if found.status == E.PENDING:
            await self.travel.go(model.id)

    async def pause(self, model: Model, found: Execution) -> None:
        await self.travel.control.pause(model.id, actor="me")

    async def retry(self, model: Model, found: Execution) -> None:
        assert found.error is not None
        assert found.error.code == "runner_died", found.error
        await self.travel.control.retry(model.id, actor="me")

    async def sent_on(self, model: Model, command: str) -> None:
        """Makes a paused execution PENDING, with answers to all or some of its questions."""
        asked = await self.travel.control.asked(model.id)
        asked = [question for question in asked if not question["answered"]]
        if not asked:
            await getattr(self.travel.control, command)(model.id, actor="me")
            return
        some = self.chance.sample(asked, self.chance.randint(1, len(asked)))
        answers = {question["id"]: machines.answer(question["value"]) for question in some}
        self.say("  answers", len(some), "of", len(asked))
        await self.travel.control.answer(model.id, answers, resume=command == "resume", actor="me")
        if command == "step":
            await self.travel.control.step(model.id, actor="me")

    async def resume(self, model: Model, found: Execution) -> None:
        await self.sent_on(model, "resume")
        if self.chance.random() < 0.8:
            await self.travel.go(model.id)

    async def step(self, model: Model, found: Execution) -> None:
        before = found.head_step or 0
        await self.sent_on(model, "step")
        stepped = await self.travel.go(model.id)
        if stepped.reason == "interrupt" and stepped.status == E.PAUSED:
            assert stepped.head_step in (before, 0), (before, stepped)
        elif stepped.status == E.COMPLETED:
            assert stepped.head_step in (before, before + 1), (before, stepped)
        elif stepped.reason == "breakpoint" and before < 0:  # before the first nodes
            assert (stepped.status, stepped.head_step) == (E.PAUSED, 0), stepped
        else:
            assert (stepped.status, stepped.head_step) == (E.PAUSED, max(before, 0) + 1), stepped

    async def breakpoint(self, model: Model, found: Execution) -> None:
        """Runs to a breakpoint, which is the next place where plain LangGraph comes to it."""
        name, when = self.chance.choice(self.nodes), self.chance.choice(["before", "after"])
        await self.travel.control.set_breakpoints(model.id, [f"{when}:{name}"], actor="me")
        await self.sent_on(model, "resume")
        stopped = await self.travel.go(model.id)
        places = await self.plain.run(model.schedule)
        assert stopped.head_step is not None
        ran = {s: places[s - 1].next if s - 1 in places else [] for s in places}
        since = range((found.head_step if found.head_step is not None else -2) + 1, len(places) - 1)
        hits = [
            s
            for s in since
            if places[s].next and name in (places[s].next if when == "before" else ran[s])
        ]
        self.say("  to", when, name, hits, "stands at", stopped.head_step, stopped.reason)
        if stopped.reason == "breakpoint":
            assert stopped.head_step == hits[0]
        else:
            assert not [s for s in hits if s <= stopped.head_step]
        if stopped.status == E.PAUSED:
            await self.travel.control.set_breakpoints(model.id, [], actor="me")

    async def disturb(self, model: Model, found: Execution) -> None:
        """Lets it run into a node that holds, and there pauses it, or lets its runner die."""
        if found.status == E.PAUSED:
            await self.sent_on(model, self.chance.choice(["resume", "resume", "step"]))
        HELD.add(self.chance.choice(self.nodes))
        WAITING.clear()
        await self.travel.begin(model.id)
        while not WAITING and (await self.travel.get(model.id)).status == E.RUNNING:
            await asyncio.sleep(0.003)
        how = self.chance.choice(["pause", "kill", "zombie"] if self.kills else ["pause"])
        running = (await self.travel.get(model.id)).status == E.RUNNING
        self.say("  holds at", *WAITING, how, running)
        if not running:
            HELD.clear()
            await self.travel.rest(model.id)
        elif how == "pause":
            await self.travel.control.pause(model.id, actor="me")
            HELD.clear()
            await self.travel.rest(model.id)
        else:
            await self.die(how, model)

    async def die(self, how: str, model: Model) -> None:
        version = self.version.version
        if self.chance.random() < 0.2:
            try:
                await self.travel.control.pause(model.id, actor="me")
                self.say("  is to pause")
            except errors.InvalidTransition:
                pass
        if how == "kill":
            await self.travel.crash(version)
            HELD.clear()
            return
        zombie = await self.travel.presume_dead(version)
        HELD.clear()
        if (await self.travel.get(model.id)).status == E.PENDING:
            await self.travel.go(model.id)
        await asyncio.gather(*zombie._tasks)

    async def back(self, model: Model, found: Execution) -> None:
        if not (known := await self._known(model)):
            return
        to = self.chance.choice(known)
        at_head = to.checkpoint_id == found.head
        mode: Mode = "as_it_stands" if at_head and self.chance.random() < 0.3 else "clean"
        self.say("  to", to.step, mode)
        self.loose = self.loose or await self.within(found)
        await self.travel.branches.roll_back(model.id, to.checkpoint_id, mode=mode, actor="me")
        self.moved(model, to, dict(found.binding))

    async def _has(self, model: Model, step: Step) -> bool:
        try:
            await self.travel.store.executions.step(model.id, step.checkpoint_id)
        except errors.UnknownCheckpoint:
            return False
        return True

    async def within(self, found: Execution) -> bool:
        """Whether part of the next super-step is done."""
        place = {"thread": found.thread_id, "head": found.head}
        rows = await self.travel.db.rows(
            "SELECT FROM checkpoint_writes WHERE thread_id = %(thread)s AND checkpoint_ns = ''"
            " AND checkpoint_id = %(head)s UNION ALL"
            " SELECT FROM checkpoints WHERE thread_id = %(thread)s AND checkpoint_ns <> ''"
            " AND metadata -> 'parents' ->> '' = %(head)s",
            place,
        )
        return bool(rows)

    def moved(self, model: Model, to: Step, binding: Binding) -> None:
        """What follows the checkpoint runs under the binding."""
        before = [s for s in self.schedules[to.checkpoint_id] if s[0] < to.step]
        model.schedule = (*before, (to.step, tuple(sorted(binding.items()))))
        if to.step < -1:
            model.schedule = model.schedule[-1:]

    async def swap(self, model: Model, found: Execution) -> None:
        if await self.within(found):  # part of a step under one binding, part under the other
            return
        binding = self.any_binding()
        await self.travel.control.swap(model.id, self.version, binding, fingerprints={}, actor="me")
        at = -3 if found.head_step is None else found.head_step
        before = [s for s in model.schedule if s[0] < at]
        model.schedule = (*before, (at, tuple(sorted(binding.items()))))

    async def fork(self, model: Model, found: Execution) -> None:
        if len(self.models) >= 4 or not (known := await self._known(model)):
            return
        to = self.chance.choice(known)
        binding = self.any_binding() if self.chance.random() < 0.5 else dict(found.binding)
        made = await fork(
            self.travel, model.id, to.checkpoint_id, binding, run=self.chance.random() < 0.5
        )
        self.say("  at", to.step, "gives", made.id[-4:])
        self.models[made.id] = child = Model(made.id, (), model.id)
        self.moved(child, to, binding)

    async def _known(self, model: Model) -> list[Step]:
        return [s for s in self.seen.values() if await self._has(model, s)]

    async def stop(self, model: Model, found: Execution) -> None:
        await self.travel.store.executions.request_stop(model.id, actor="me")

    async def finish(self, model: Model) -> None:
        """Brings it to its end, whatever stands in the way."""
        for _ in range(60):
            found = await self.travel.get(model.id)
            match found.status:
                case E.PENDING:
                    await self.travel.go(model.id)
                case E.PAUSED:
                    await self.sent_on(model, "resume")
                case E.FAILED:
                    await self.retry(model, found)
                case E.CANCELLED:
                    if found.head is None:
                        return
                    self.loose = self.loose or await self.within(found)
                    to = next(s for s in self.seen.values() if s.checkpoint_id == found.head)
                    await self.travel.branches.roll_back(model.id, found.head, actor="me")
                    self.moved(model, to, dict(found.binding))
                case E.COMPLETED:
                    return
            await self.settled()
        raise AssertionError(f"{model.id} never ends")

    # --- what must hold ---

    async def settled(self) -> None:
        """Everything rests that was begun beside what was told to go, and is as it must be."""
        for model in self.models.values():
            await self.travel.rest(model.id)
            await self.check(model)

    async def check(self, model: Model) -> None:
        found = await self.travel.get(model.id)
        steps = await self.travel.steps(model.id)
        for step in steps:
            self.schedules.setdefault(step.checkpoint_id, model.schedule)
            self.seen.setdefault((step.thread_id, step.checkpoint_id), step)
        places = await self.plain.run(model.schedule)
        assert [s.step for s in steps] == [*range(-1, len(steps) - 1)]
        for step in steps:
            assert sorted(step.next_nodes) == places[step.step].next, step
            if step.step > 0:
                assert sorted(run.name for run in step.nodes) == places[step.step - 1].next
        if found.head is None:
            assert not steps
            return
        assert steps[-1].checkpoint_id == found.head
        assert steps[-1].step == found.head_step
        if steps[-1].step >= 0:
            assert await self.travel.state(model.id) == places[steps[-1].step].state
        assert (found.status == E.COMPLETED) <= (not steps[-1].next_nodes)
        if self.tracked and found.status == E.COMPLETED:
            assert await self.travel.files(model.id) == self.tree(places, steps[-1].step)

    def tree(self, places: dict[int, Place], last: int) -> dict[str, str]:
        """The files when these steps have done what they do."""
        found: dict[str, str] = {}
        for step in range(last + 1):
            found |= dict(places[step].deeds.keys())
        return found

    async def check_deeds(self) -> None:
        """Nodes did what the stored steps of all branches say: exactly, when nothing died."""
        expected: Counter[tuple[str, str]] = Counter()
        for step in self.seen.values():
            places = await self.plain.run(self.schedules[step.checkpoint_id])
            expected += places[step.step].deeds
        done = Counter(DONE[self.key])
        missing = expected - done
        assert not missing, f"not done: {missing}"
        if not self.kills and not self.loose:
            assert done == expected, f"done too often: {done - expected}"
