"""Commands on executions, batches and variants, without Ray: the controller carries them out.

Each is checked against what registration and history say before anything changes, and is then one
change of the store; what needs the project's code goes to a runner.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from wtb_ray import answers as checks
from wtb_ray import bindings, errors, requests
from wtb_ray.api import NodeOutcome
from wtb_ray.control import (
    AnswersRequest,
    BatchChange,
    ExecuteNodeRequest,
    ExtendRequest,
    Forked,
    ForkRequest,
    Item,
    NewVariant,
    Operation,
    Outcomes,
    PauseRequest,
    RerunRequest,
    ResetRequest,
    ResumeRequest,
    RetryRequest,
    RollbackRequest,
    StateRequest,
    StopRequest,
    SwapRequest,
)
from wtb_ray.integrity.reports import (
    IntegrityRepairs,
    IntegrityReport,
    IntegrityRequest,
    wanted,
)
from wtb_ray.model import Batch, Execution, ProjectSpec, ProjectVersion, VariantSpec
from wtb_ray.serve.limits import LimitCommands
from wtb_ray.serve.operating import Ask, Operating
from wtb_ray.serve.travel import Travel
from wtb_ray.states import EXECUTION, ExecutionStatus
from wtb_ray.storage_api import CollectionReport, CollectRequest, RehashReport, RehashRequest
from wtb_ray.store import Store

Register = Callable[[ProjectSpec, str], Awaitable[ProjectVersion]]
Track = Callable[..., Awaitable[Any]]
"""`track(method, *args)`: has the file tracker do something."""


class Commands(LimitCommands):
    """What users ask of what is there already."""

    def __init__(
        self,
        store: Store,
        *,
        ask: Ask,
        wake: Callable[[], Awaitable[None]],
        register: Register,
        integrity: Callable[..., Awaitable[Any]],
        track: Track,
        max_cells: int,
    ) -> None:
        self._store = store
        self._max_cells = max_cells
        self._wake = wake
        self._register = register
        self._integrity = integrity
        self._track = track
        self._operating = Operating(store, ask, wake)
        self._travel = Travel(self._operating)

    async def pause(self, id: str, request: PauseRequest, actor: str) -> Execution:
        """Pauses an execution at once, or at its next boundary where it runs."""
        return await self._store.control.pause(
            id,
            actor=actor,
            reason=request.reason,
            strategy=request.strategy,
            expected_s=request.expected_s,
            gpus=await self._gpus(id) if request.expected_s is not None else 0.0,
        )

    async def _gpus(self, id: str) -> float:
        """What the nodes of an execution hold of them in actors of their own."""
        execution = await self._store.executions.get(id)
        version = await self._operating.version_of(execution)
        nodes = [node.name for node in requests.graph_of(version, execution.binding).nodes]
        apart = bindings.apart(version.spec, execution.binding, nodes).values()
        return sum(one.resources.num_gpus for one in apart if one.resources is not None)

    async def resume(self, id: str, request: ResumeRequest, actor: str) -> Execution | Operation:
        """Sends a paused execution on, with another state or with answers."""
        limit = request.recursion_limit
        if request.changes is not None or request.answers or request.cell is not None:
            id = await self._operating.own(id, request.cell, "resume", actor)
        if request.changes is not None:
            await self._check_change(id, request.changes, "resume")
            work = self._change_and_resume(id, request.changes, limit, actor)
            return await self._operating.in_time("resume", id, work)
        if request.answers:
            await self._check_answers(id, request.answers)
            execution = await self._store.control.answer(
                id, request.answers, recursion_limit=limit, actor=actor
            )
        else:
            execution = await self._store.control.resume(id, recursion_limit=limit, actor=actor)
        await self._wake()
        return execution

    async def _change_and_resume(
        self, id: str, changes: StateRequest, limit: int | None, actor: str
    ) -> Execution:
        await self._change(id, changes, actor)
        execution = await self._store.control.resume(id, recursion_limit=limit, actor=actor)
        await self._wake()
        return execution

    async def step(self, id: str, actor: str) -> Execution:
        """Lets a paused execution run one super-step."""
        execution = await self._store.control.step(id, actor=actor)
        await self._wake()
        return execution

    async def retry(self, id: str, request: RetryRequest, actor: str) -> Execution:
        """Lets a failed execution go on from its head."""
        limit = request.recursion_limit
        execution = await self._store.control.retry(id, recursion_limit=limit, actor=actor)
        await self._wake()
        return execution

    async def answer(self, id: str, request: AnswersRequest, actor: str) -> Execution:
        """Takes answers to questions, checked against the schemas that came with them."""
        id = await self._operating.own(id, request.cell, "answer", actor)
        await self._check_answers(id, request.answers)
        execution = await self._store.control.answer(
            id, request.answers, resume=request.resume, actor=actor
        )
        await self._wake()
        return execution

    async def _check_answers(self, id: str, answers: dict[str, Any]) -> None:
        for question in await self._store.control.asked(id):
            schema = question["answer_schema"]
            if schema is not None and question["id"] in answers and not question["answered"]:
                checks.check(question["id"], answers[question["id"]], schema)

    async def set_breakpoints(self, id: str, breakpoints: Sequence[str], actor: str) -> Execution:
        """Replaces the breakpoints of an execution, also of one that runs."""
        execution = await self._store.executions.get(id)
        version = await self._operating.version_of(execution)
        checked = requests.check_breakpoints(version, execution.binding, breakpoints)
        return await self._store.control.set_breakpoints(id, checked, actor=actor)

    async def change_state(
        self, id: str, request: StateRequest, actor: str
    ) -> Execution | Operation:
        """Changes the state of a paused execution."""
        id = await self._operating.own(id, request.cell, "change_state", actor)
        await self._check_change(id, request, "change_state")
        work = self._change(id, request, actor)
        return await self._operating.in_time("change_state", id, work)

    async def _check_change(self, id: str, request: StateRequest, command: str) -> None:
        execution = await self._store.executions.get(id)
        if execution.status != ExecutionStatus.PAUSED:
            raise errors.InvalidTransition(
                f"execution {id} is {execution.status}: {command} needs PAUSED",
                field="status",
                reason=f"{command} does not apply",
                state=execution.status,
                command=command,
                allowed=sorted(EXECUTION["resume"][0]),
            )
        version = await self._operating.version_of(execution)
        requests.check_channels(version, execution.binding, request.values, field="state")

    async def _change(self, id: str, request: StateRequest, actor: str) -> Execution:
        execution = await self._store.executions.get(id)
        version = await self._operating.version_of(execution)
        return await self._operating.change_state(execution, version, request, actor)

    async def execute_node(
        self, id: str, node: str, request: ExecuteNodeRequest, actor: str
    ) -> NodeOutcome | Operation:
        """Runs one node on a state, and moves nothing."""
        execution = await self._store.executions.get(id)
        await self._store.projects.check(execution.project, new=False)
        version = await self._operating.version_of(execution)
        nodes = {n.name for n in requests.graph_of(version, execution.binding).nodes}
        if node not in nodes:
            raise errors.UnknownNode(
                f"the graph has no node {node!r}", field="node", reason=f"nodes are {sorted(nodes)}"
            )
        if request.state is not None:
            requests.check_channels(version, execution.binding, request.state, field="state")
        elif execution.head is None:
            raise errors.InvalidTransition(
                f"execution {id} has no state yet: give one",
                field="state",
                reason="not begun",
                state=execution.status,
                command="execute_node",
            )
        work = self._operating.ask(version, "execute_node", id, node, request.state, actor)
        return await self._operating.in_time("execute_node", id, work)

    async def rollback(self, id: str, request: RollbackRequest, actor: str) -> Execution:
        """See `Travel.rollback`."""
        return await self._travel.rollback(id, request, actor)

    async def stop(self, id: str, request: StopRequest, actor: str) -> Execution:
        """Stops an execution at its next boundary when it runs; kills it when that is wanted."""
        if request.cell is not None:
            id = await self._operating.own(id, request.cell, "stop", actor, moving=True)
        stop = self._store.control.kill if request.kill else self._store.executions.request_stop
        return await stop(id, actor=actor, reason=request.reason)

    async def reset(self, id: str, request: ResetRequest, actor: str) -> Execution:
        """Puts an execution back to its input; it is PAUSED then."""
        id = await self._operating.own(id, request.cell, "reset", actor)
        return await self._store.branches.reset(id, actor=actor)

    async def fork(
        self, id: str, request: ForkRequest, actor: str, fork_id: str | None
    ) -> Forked | Operation:
        """See `Travel.fork`."""
        return await self._travel.fork(id, request, actor, fork_id)

    async def swap(self, id: str, request: SwapRequest, actor: str) -> Execution:
        """See `Travel.swap`."""
        id = await self._operating.own(id, request.cell, "swap", actor, moving=True)
        return await self._travel.swap(id, request, actor)

    async def many(self, items: Sequence[Item], actor: str, seed: str | None) -> Outcomes:
        """See `Travel.many`."""
        return await self._travel.many(items, actor, seed)

    async def collect(self, request: CollectRequest, actor: str) -> CollectionReport | Operation:
        """Deletes stored objects that nothing needs, or counts them."""
        work = self._tracked("collect", request.dry_run, request.grace_s, actor)
        return await self._operating.in_time("collect", None, work)

    async def rehash(self, request: RehashRequest, actor: str) -> RehashReport | Operation:
        """Checks stored objects, and repairs them if that is wanted."""
        work = self._tracked("rehash", request.sample, request.digests, request.repair)
        return await self._operating.in_time("rehash", None, work)

    async def _tracked(self, method: str, *args: Any) -> Any:
        return await self._track(method, *args)

    async def pause_batch(self, id: str, actor: str) -> Batch:
        """Starts nothing more of a batch; what runs is given back at its next boundary."""
        return await self._store.batches.pause(id, actor=actor)

    async def resume_batch(self, id: str, actor: str) -> Batch:
        """Goes on with a paused batch."""
        batch = await self._store.batches.resume(id, actor=actor)
        await self._wake()
        return batch

    async def rerun_batch(self, id: str, request: RerunRequest, actor: str) -> Batch:
        """Runs cells of a batch again that have failed or did not run."""
        batch = await self._store.batches.rerun(
            id, request.status, variant=request.variant, case=request.case, actor=actor
        )
        await self._wake()
        return batch

    async def change_batch(self, id: str, change: BatchChange, actor: str) -> Batch:
        """Changes budgets of a batch."""
        batch = await self._store.batches.set_budget(id, change.budget, actor=actor)
        await self._wake()
        return batch

    async def extend_batch(self, id: str, request: ExtendRequest, actor: str) -> Batch:
        """Adds cases, variants and repetitions to a batch."""
        batch = await self._store.batches.get(id)
        version = await self._store.projects.by_version(batch.version)
        fresh = [
            requests.check_binding(version, binding, field=f"variants.{i}")
            for i, binding in enumerate(request.variants)
        ]
        rows = requests.check_cases(request.cases, field="cases")
        for i, case in enumerate(rows):
            taken = [*batch.bindings, *fresh]
            requests.check_state(version, taken, case.input, field=f"cases.{i}.input")
        batch = await self._store.batches.extend(
            id, rows, fresh, request.repetitions, max_cells=self._max_cells, actor=actor
        )
        await self._wake()
        return batch

    async def set_active(self, project: str, active: bool, actor: str) -> ProjectVersion:
        """Lets new executions and batches of a project start, or not; what runs goes on."""
        return await self._store.projects.set_active(project, active, actor=actor)

    async def remove_project(self, project: str, actor: str) -> ProjectVersion:
        """Takes a project away of which nothing runs; what it ran can be read as before."""
        return await self._store.projects.remove(project, actor=actor)

    async def integrity(
        self, request: IntegrityRequest, actor: str
    ) -> IntegrityReport | IntegrityRepairs | Operation:
        """Has everything held against each other, or what was found put right."""
        wanted(request.only)
        return await self._operating.in_time(
            f"integrity_{request.action}", None, self._ask_integrity(request, actor)
        )

    async def _ask_integrity(
        self, request: IntegrityRequest, actor: str
    ) -> IntegrityReport | IntegrityRepairs:
        given: tuple[Any, ...] = (request.deep, request.only)
        if request.action == "repair":
            given = (request.findings, request.dry_run)
        found: IntegrityReport | IntegrityRepairs = await self._integrity(
            request.action, *given, actor
        )
        return found

    async def add_variant(
        self, project: str, node: str, variant: NewVariant, actor: str
    ) -> ProjectVersion:
        """Makes a version of a project with one more variant."""
        version = await self._store.projects.get(project)
        if variant.name in version.spec.variants.get(node, {}):
            raise errors.AlreadyExists(
                f"node {node!r} has a variant {variant.name!r} already", field="name", node=node
            )
        spec = VariantSpec(**variant.model_dump(exclude={"name"}))
        return await self._with_variant(version, node, variant.name, spec, actor)

    async def set_variant(
        self, project: str, node: str, name: str, active: bool, actor: str
    ) -> ProjectVersion:
        """Makes a version of a project in which a variant is active, or not."""
        version = await self._store.projects.get(project)
        spec = _variant(version, node, name).model_copy(update={"active": active})
        return await self._with_variant(version, node, name, spec, actor)

    async def remove_variant(
        self, project: str, node: str, name: str, actor: str
    ) -> ProjectVersion:
        """Makes a version of a project without a variant; older versions keep it."""
        version = await self._store.projects.get(project)
        _variant(version, node, name)
        return await self._with_variant(version, node, name, None, actor)

    async def _with_variant(
        self,
        version: ProjectVersion,
        node: str,
        name: str,
        variant: VariantSpec | None,
        actor: str,
    ) -> ProjectVersion:
        variants = {n: dict(found) for n, found in version.spec.variants.items()}
        if variant is None:
            del variants[node][name]
        else:
            variants.setdefault(node, {})[name] = variant
        spec = version.spec.model_copy(
            update={"variants": {n: v for n, v in variants.items() if v}}
        )
        return await self._register(spec, actor)


def _variant(version: ProjectVersion, node: str, name: str) -> VariantSpec:
    found = version.spec.variants.get(node, {}).get(name)
    if found is None:
        raise errors.NotFound(
            f"node {node!r} of {version.project!r} has no variant {name!r}",
            field="variant",
            reason="unknown",
        )
    return found
