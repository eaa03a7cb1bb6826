"""Commands on resting executions that need the project's code: a changed state, one node tried out.

A change of state takes the execution's epoch first, so that whoever sends it on meanwhile wins and
the change is not stored. Trying a node moves nothing: it runs in a graph of its own, over the files
of the execution in a directory of its own.
"""

import time
import typing
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.channels import BinaryOperatorAggregate
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import InvalidUpdateError
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Overwrite, Send, StateUpdate
from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import to_jsonable_python

from wtb_ray import errors, events, graphs
from wtb_ray.api import NodeOutcome
from wtb_ray.attachments import Attachment, Boundary
from wtb_ray.context import Context, Limits, entered
from wtb_ray.faults import fault_of
from wtb_ray.holds import Holds
from wtb_ray.model import Assignment, Execution, ProjectSpec, new_id
from wtb_ray.saver import Saver
from wtb_ray.store import Store
from wtb_ray.workspaces import OpenWorkspace, Workspaces

AMBIGUOUS: Final = "Ambiguous update"
"""What LangGraph says when several nodes wrote last."""
LENIENT: Final = ConfigDict(arbitrary_types_allowed=True)


class Operations:
    """The operations of one runner process."""

    def __init__(
        self,
        compiled: graphs.Graphs,
        saver: Saver,
        store: Store,
        spec: ProjectSpec,
        workspaces: Workspaces,
        bundle: Path | None,
        holds: Holds,
        limits: Limits,
    ) -> None:
        self._graphs = compiled
        self._saver = saver
        self._store = store
        self._spec = spec
        self._workspaces = workspaces
        self._bundle = bundle
        self._holds = holds
        self._limits = limits

    async def change_state(
        self, id: str, values: Mapping[str, Any], as_node: str | None, replace: bool, actor: str
    ) -> Execution:
        """Changes the state of a paused execution, as LangGraph's `update_state` does.

        Args:
            id: The execution.
            values: By channel; reducers take them as what a node wrote.
            as_node: Whose write it shall be; the nodes after it come next. None: the last writer's.
            replace: Overwrite instead of reducing.
            actor: Who does it.

        Raises:
            UnknownExecution: There is none with this id.
            InvalidTransition: It is not PAUSED, or has not begun.
            InvalidState: A value does not fit its channel; names it.
            Fenced: Somebody sent it on meanwhile; nothing was changed.
        """
        one = await self._store.control.hold(id)
        compiled = self._graphs.compiled(one.binding)
        fitting = self._fitting(compiled, values, replace)
        attachment = _attachment(one, actor)
        attachment.boundary = _boundary(compiled)
        attachment.change = {"channels": sorted(values), "as_node": as_node, "replaced": replace}
        self._saver.attach(attachment)
        config: RunnableConfig = {"configurable": {"thread_id": one.thread_id}}
        try:
            with entered(Context(one.execution_id, compiled.params, "")):
                await self._update(compiled, config, fitting, as_node, one)
            await self._saver.flush(one.thread_id)
        except InvalidUpdateError as e:
            field = "as_node" if "as_node" in str(e) or "does not exist" in str(e) else "state"
            raise errors.InvalidState(str(e), field=field, reason=str(e)) from e
        except errors.WTBError:
            raise
        except Exception as e:  # a reducer or writer of the project
            reason = f"{type(e).__name__}: {e}"
            raise errors.InvalidState(
                f"the graph refuses the state: {reason}", field="state", reason=reason
            ) from e
        finally:
            self._saver.detach(one.thread_id)
        return await self._store.executions.get(id)

    async def _update(
        self,
        compiled: graphs.Compiled,
        config: RunnableConfig,
        values: Mapping[str, Any],
        as_node: str | None,
        one: Assignment,
    ) -> None:
        """LangGraph's update; where several nodes wrote last, as the write of all of them.

        So what follows them follows still. LangGraph itself refuses that as ambiguous.
        """
        try:
            await compiled.graph.aupdate_state(config, dict(values), as_node=as_node)
        except InvalidUpdateError as e:
            last = await self._last_nodes(one)
            if as_node is not None or AMBIGUOUS not in str(e) or not last:
                raise
            first, *others = last
            updates = [StateUpdate(dict(values), first), *(StateUpdate(None, o) for o in others)]
            await compiled.graph.abulk_update_state(config, [updates])

    async def _last_nodes(self, one: Assignment) -> list[str]:
        steps = await self._store.executions.steps(one.execution_id)
        return next((names for s in steps if (names := [run.name for run in s.nodes])), [])

    async def check_state(
        self, binding: Mapping[str, str], values: Mapping[str, Any], as_node: str | None
    ) -> None:
        """Checks a change of state that is yet to be made, by the types of the channels.

        Raises:
            InvalidState: A value does not fit its channel, or there is no such node; names it.
        """
        compiled = self._graphs.compiled(binding)
        self._fitting(compiled, values, replace=False)
        if as_node is not None and as_node not in compiled.graph.builder.nodes:
            raise errors.InvalidState(
                f"the graph has no node {as_node!r}",
                field="as_node",
                reason=f"nodes are {sorted(compiled.graph.builder.nodes)}",
            )

    def _fitting(
        self, compiled: graphs.Compiled, values: Mapping[str, Any], replace: bool
    ) -> dict[str, Any]:
        builder = compiled.graph.builder
        hints = _hints(builder.state_schema)
        fitting: dict[str, Any] = {}
        for name, value in values.items():
            if name not in builder.channels or name.startswith("__"):
                known = sorted(c for c in builder.channels if not c.startswith("__"))
                raise errors.InvalidState(
                    f"the graph has no channel {name!r}",
                    field=f"state.{name}",
                    reason=f"channels are {known}",
                )
            fits = _fits(name, value, hints.get(name))
            reduced = isinstance(builder.channels[name], BinaryOperatorAggregate)
            fitting[name] = Overwrite(fits) if replace and reduced else fits
        return fitting

    async def execute_node(
        self, id: str, node: str, state: Mapping[str, Any] | None, actor: str
    ) -> NodeOutcome:
        """Runs one node on a given state, or on that of the head; nothing moves.

        Raises:
            UnknownExecution: There is none with this id.
            UnknownNode: Its graph has no such node.
            InvalidTransition: It has no state yet, and none was given.
        """
        execution = await self._store.executions.get(id)
        compiled = self._graphs.compiled(execution.binding)
        nodes = compiled.graph.builder.nodes
        if node not in nodes:
            raise errors.UnknownNode(
                f"the graph has no node {node!r}", field="node", reason=f"nodes are {sorted(nodes)}"
            )
        given = dict(state) if state is not None else await self._state(execution, compiled)
        outcome = await self._try(execution, compiled, node, given)
        error = outcome.error.message if outcome.error is not None else None
        event = events.NodeExecuted(node=node, duration_ms=outcome.duration_ms, error=error)
        async with self._store.db.transaction() as conn:
            await self._store.events.append(
                conn, actor, event, project=execution.project, execution_id=id
            )
        return outcome

    async def _state(self, execution: Execution, compiled: graphs.Compiled) -> dict[str, Any]:
        if execution.head is None:
            raise errors.InvalidTransition(
                f"execution {execution.id} has no state yet: give one",
                field="state",
                reason="not begun",
                state=execution.status,
                command="execute_node",
            )
        reader = Saver(self._store.db, unfenced=True, serde=_serde(compiled))
        place = {"thread_id": execution.thread_id, "checkpoint_id": execution.head}
        found = await reader.aget_tuple({"configurable": place})
        if found is None:
            raise errors.UnknownCheckpoint(f"the head of {execution.id} is not stored")
        return compiled.values(found.checkpoint)

    async def _opened(self, execution: Execution) -> OpenWorkspace:
        """A workspace of its own with the execution's files, which stay until they are there."""
        tracking = self._spec.tracked_files
        manifest = None
        async with AsyncExitStack() as reading:
            if tracking is not None:
                manifest = await self._store.files.manifest_at(execution.id)
                await reading.enter_async_context(
                    self._holds.reading([manifest] if manifest else [])
                )
                if await self._store.files.manifest_at(execution.id) != manifest:
                    raise errors.Conflict(
                        f"the files of execution {execution.id} have changed meanwhile: try again",
                        field="execution_id",
                        reason="changed meanwhile",
                    )
            return await self._workspaces.open(
                new_id("t"),
                1,
                tracking=tracking,
                isolation=self._spec.workspace_isolation,
                manifest=manifest,
                bundle=self._bundle,
            )

    async def _try(
        self, execution: Execution, compiled: graphs.Compiled, node: str, state: Mapping[str, Any]
    ) -> NodeOutcome:
        opened = await self._opened(execution)
        context = Context(
            execution.id, compiled.params, new_id("t"), opened.workspace, None, self._limits
        )
        began, fault, asked = time.monotonic(), None, []
        given: list[Any] = []
        try:
            with entered(context):
                graph = _alone(compiled, node, given)
                config: RunnableConfig = {"configurable": {"thread_id": "try"}}
                found = await graph.ainvoke(dict(state), config)
                asked = [i.value for i in found.get("__interrupt__", ())] if found else []
        except Exception as e:  # noqa: BLE001 - what the node raises is the answer
            fault = fault_of(e)
        finally:
            await opened.close(keep=False)
        update, goto = _parted(given[0] if given else None)
        return NodeOutcome(
            node=node,
            update=to_jsonable_python(update, fallback=repr),
            goto=to_jsonable_python(goto, fallback=repr),
            interrupts=to_jsonable_python(asked, fallback=repr),
            error=fault,
            duration_ms=(time.monotonic() - began) * 1000,
        )


def _attachment(one: Assignment, actor: str) -> Attachment:
    return Attachment(
        execution_id=one.execution_id,
        epoch=one.epoch,
        thread_id=one.thread_id,
        head=one.head,
        head_step=one.head_step,
        project=one.project,
        batch_id=one.batch_id,
        actor=actor,
    )


def _boundary(compiled: graphs.Compiled) -> Any:
    def boundary(
        checkpoint: Checkpoint, metadata: CheckpointMetadata, config: RunnableConfig
    ) -> Boundary:
        tasks = compiled.next_tasks(checkpoint, metadata, config)
        return Boundary(next_nodes=tuple(name for _, name in tasks), next_tasks=tasks)

    return boundary


def _serde(compiled: graphs.Compiled) -> Any:
    checkpointer = compiled.graph.checkpointer
    return checkpointer.serde if isinstance(checkpointer, Saver) else None


def _hints(schema: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(schema)
    except (NameError, TypeError):  # names that only a type checker sees
        return {}


def _fits(name: str, value: Any, hint: Any) -> Any:
    """The value as the channel's type has it; what pydantic knows nothing of is taken as it is."""
    if hint is None:
        return value
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint, config=LENIENT)
    except PydanticSchemaGenerationError:
        return value
    except PydanticUserError:  # the type has a configuration of its own
        try:
            adapter = TypeAdapter(hint)
        except (PydanticUserError, PydanticSchemaGenerationError):
            return value
    try:
        return adapter.validate_python(value)
    except ValidationError as e:
        first = e.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(["state", name, *map(str, first["loc"])])
        raise errors.InvalidState(
            f"channel {name!r}: {first['msg']}", field=where, reason=first["msg"], channel=name
        ) from e


def _alone(compiled: graphs.Compiled, node: str, given: list[Any]) -> Any:
    """A graph of this node alone, which writes nothing and tells what the node returned."""
    builder = compiled.graph.builder
    spec = builder.nodes[node]
    runnable: Any = spec.runnable  # compiled graphs have made runnables of functions

    async def call(state: Any, config: RunnableConfig) -> dict[str, Any]:
        given.append(await runnable.ainvoke(state, config))
        return {}

    alone: StateGraph[Any, Any, Any, Any] = StateGraph(builder.state_schema, builder.context_schema)
    alone.add_node(node, call, input_schema=spec.input_schema, retry_policy=spec.retry_policy)
    alone.add_edge(START, node)
    alone.add_edge(node, END)
    return alone.compile(checkpointer=InMemorySaver())


def _parted(returned: Any) -> tuple[Any, list[Any]]:
    """What a node wrote, and where it went."""
    if isinstance(returned, Command):
        gone = returned.goto if isinstance(returned.goto, list | tuple) else [returned.goto]
        return returned.update, [_place(place) for place in gone if place]
    if isinstance(returned, list | tuple) and any(isinstance(r, Command) for r in returned):
        parts = [_parted(part) for part in returned]
        return [update for update, _ in parts if update], [p for _, goto in parts for p in goto]
    return returned, []


def _place(place: Any) -> Any:
    return {"node": place.node, "arg": place.arg} if isinstance(place, Send) else place
