"""Rollback, fork and swap: validated against graph and history first, then done as a whole.

What is refused has changed nothing: an execution that was paused for the command goes on.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from wtb_ray import errors, requests
from wtb_ray.control import (
    Forked,
    ForkItem,
    ForkRequest,
    Item,
    Operation,
    Outcome,
    Outcomes,
    RollbackRequest,
    SwapRequest,
)
from wtb_ray.model import Execution, ProjectVersion, Step, digest, new_id
from wtb_ray.serve.operating import Operating, broke
from wtb_ray.states import ExecutionStatus

log = logging.getLogger(__name__)

AT_ONCE: Final = 8
"""Items of a command on many that are under way at the same time."""


class _Taken(NamedTuple):
    """What an execution runs, or is to run."""

    version: ProjectVersion
    binding: Mapping[str, str]


class Travel:
    """Commands that give executions another place, or another implementation."""

    def __init__(self, operating: Operating) -> None:
        self._operating = operating
        self._store = operating.store

    async def rollback(self, id: str, request: RollbackRequest, actor: str) -> Execution:
        """Puts an execution back, or forward, to a checkpoint; it is PAUSED then."""
        id = await self._operating.own(id, request.cell, "rollback", actor, moving=request.pause)
        step = await self._place(id, request)
        paused = False
        if request.pause:
            _, paused = await self._operating.at_rest(id, actor)
        try:
            return await self._store.branches.roll_back(
                id, step.checkpoint_id, mode=request.mode, actor=actor
            )
        except errors.WTBError:
            await self._operating.go_on(id, paused, actor)
            raise

    async def fork(
        self, id: str, request: ForkRequest, actor: str, fork_id: str | None
    ) -> Forked | Operation:
        """Makes executions that go on from a checkpoint; the same `fork_id`, the same ones."""
        source = await self._store.executions.get(id)
        step = await self._place(id, request)
        old = await self._operating.version_of(source)
        version = await self._version(source, request.version)
        field = "variant_config"
        if request.version is None and not request.variant_config:
            binding = dict(source.binding)
        else:
            binding = requests.inherited_binding(
                version, source.binding, request.variant_config, field=field
            )
        if (version, binding) != (old, source.binding):
            channels = await self._store.branches.channels(step)
            requests.check_fit(version, binding, step.next_nodes, channels)
        checked = requests.check_breakpoints(version, binding, request.breakpoints)
        if request.changes is not None:
            await self._store.projects.check(source.project, new=True)
            requests.check_channels(version, binding, request.changes.values, field="state")
        request = request.model_copy(update={"breakpoints": list(checked)})
        ids = fork_ids(fork_id, request.count)
        making = self._make(source, step, _Taken(version, binding), request, actor, ids)
        if request.changes is None:
            return await making
        return await self._operating.in_time("fork", id, making)

    async def _make(
        self,
        source: Execution,
        step: Step,
        taken: _Taken,
        request: ForkRequest,
        actor: str,
        ids: Sequence[str],
    ) -> Forked:
        changes = request.changes
        if changes is not None:
            await self._operating.ask(
                taken.version, "check_state", dict(taken.binding), changes.values, changes.as_node
            )

        async def one(fork_id: str) -> Execution:
            fork = await self._store.branches.fork(
                source.id,
                step.checkpoint_id,
                version=taken.version,
                binding=taken.binding,
                run=request.run and changes is None,
                mode=request.mode,
                breakpoints=request.breakpoints,
                recursion_limit=request.recursion_limit,
                actor=actor,
                id=fork_id,
            )
            return fork if changes is None else await self._changed(fork, taken, request, actor)

        made = [await one(fork_id) for fork_id in ids]
        if request.run:
            await self._operating.wake()
        return Forked(executions=made)

    async def _changed(
        self, fork: Execution, taken: _Taken, request: ForkRequest, actor: str
    ) -> Execution:
        """A new fork with its changed state, once; one that refuses it is cancelled."""
        if fork.status != ExecutionStatus.PAUSED:  # made by an earlier try of this command
            return fork
        assert request.changes is not None
        if fork.head == fork.forked_at:
            try:
                fork = await self._operating.change_state(
                    fork, taken.version, request.changes, actor
                )
            except errors.WTBError as e:
                await self._store.executions.request_stop(
                    fork.id, actor=actor, reason=f"its state was refused: {e.code}"
                )
                raise
        return await self._store.control.resume(fork.id, actor=actor) if request.run else fork

    async def swap(self, id: str, request: SwapRequest, actor: str) -> Execution:
        """Gives an execution other implementations; one that runs is paused for it and goes on."""
        execution = await self._store.executions.get(id)
        version = await self._version(execution, request.version)
        binding = requests.inherited_binding(
            version, execution.binding, request.binding, field="variant_config"
        )
        new = _Taken(version, binding)
        await self._check_fit(execution, new)
        execution, paused = await self._operating.at_rest(id, actor)
        try:
            await self._check_fit(execution, new)
            await self._swap(execution, new, actor)
        finally:
            await self._operating.go_on(id, paused, actor)
        return await self._store.executions.get(id)

    async def _swap(self, execution: Execution, new: _Taken, actor: str) -> None:
        old = _Taken(await self._operating.version_of(execution), execution.binding)
        if (new.version.version, new.binding) == (execution.version, execution.binding):
            return
        fingerprints = requests.swapped(old, new)
        if not fingerprints and execution.head is not None:
            # A version whose nodes are all the same is told of those that come next.
            step = await self._store.executions.step(execution.id, execution.head)
            fingerprints = dict.fromkeys(step.next_nodes, (None, None))
        await self._store.control.swap(
            execution.id, new.version, new.binding, fingerprints=fingerprints, actor=actor
        )

    async def _check_fit(self, execution: Execution, new: _Taken) -> None:
        if execution.head is None:
            return
        step = await self._store.executions.step(execution.id, execution.head)
        channels = await self._store.branches.channels(step)
        requests.check_fit(new.version, new.binding, step.next_nodes, channels)

    async def many(self, items: Sequence[Item], actor: str, seed: str | None) -> Outcomes:
        """Does each item by itself; those of one execution in their order."""
        room = asyncio.Semaphore(AT_ONCE)
        outcomes: list[Outcome | None] = [None] * len(items)
        groups: dict[str, list[int]] = {}
        for i, item in enumerate(items):
            groups.setdefault(item.execution_id, []).append(i)

        async def work(places: Sequence[int]) -> None:
            async with room:
                for i in places:
                    fork_id = None if seed is None else _derived(seed, i)
                    outcomes[i] = await self._outcome(items[i], actor, fork_id)

        await asyncio.gather(*map(work, groups.values()))
        return Outcomes(items=[outcome for outcome in outcomes if outcome is not None])

    async def _outcome(self, item: Item, actor: str, fork_id: str | None) -> Outcome:
        about: dict[str, Any] = {"execution_id": item.execution_id, "command": item.command}
        try:
            if isinstance(item, ForkItem):
                made = await self.fork(item.execution_id, item, actor, fork_id)
                if isinstance(made, Operation):
                    return Outcome(**about, ok=True, operation=made)
                return Outcome(**about, ok=True, executions=made.executions)
            back = await self.rollback(item.execution_id, item, actor)
            return Outcome(**about, ok=True, executions=[back])
        except errors.WTBError as e:
            return Outcome(**about, ok=False, error=e.body())
        except Exception as e:  # those of other items are not lost by it
            log.exception("%s of %s", item.command, item.execution_id, extra={"action": "many"})
            return Outcome(**about, ok=False, error=broke(e).body())

    async def _place(self, id: str, request: RollbackRequest | ForkRequest) -> Step:
        checkpoint = request.checkpoint_id
        if request.node is not None:
            checkpoint = await self._store.branches.place_of_node(id, request.node, request.where)
        if checkpoint is None:
            execution = await self._store.executions.get(id)
            checkpoint = execution.head
            if checkpoint is None:
                raise errors.InvalidTransition(
                    f"execution {id} is {execution.status} and has no checkpoint yet",
                    field="checkpoint_id",
                    reason="not begun",
                    state=execution.status,
                    command="fork",
                )
        return await self._store.executions.step(id, checkpoint)

    async def _version(self, execution: Execution, version: str | None) -> ProjectVersion:
        if version is None:
            return await self._operating.version_of(execution)
        return await self._store.projects.get(execution.project, version)


def fork_ids(first: str | None, count: int) -> list[str]:
    """The ids of forks: those of the same first id are the same."""
    if first is None:
        return [new_id("e") for _ in range(count)]
    return [first, *(_derived(first, i) for i in range(1, count))]


def _derived(seed: str, number: int) -> str:
    return f"e{digest([seed, number])[:24]}"
