"""Nodes that run in another process: what goes over to it, and what comes back.

Over go the input, the context, what a config says to users, and the answers given so far; back come
the value (Commands and Sends among them), questions, exceptions, what is written to the custom
stream, and heartbeats. Retries, timeouts and cancelling stay with the caller, who only sees a node
that takes a while. LangGraph's store, managed values and checkpointer do not cross.
"""

import asyncio
import dataclasses
import functools
import itertools
import pickle
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final, cast

import cloudpickle
from langchain_core.runnables import RunnableConfig
from langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_READ,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_SEND,
    CONFIG_KEY_TASK_ID,
    RESUME,
)
from langgraph._internal._runnable import RunnableCallable, set_config_context
from langgraph._internal._scratchpad import PregelScratchpad
from langgraph.errors import GraphInterrupt
from langgraph.pregel._algo import LazyAtomicCounter
from langgraph.runtime import ExecutionInfo, Runtime

from wtb_ray import errors
from wtb_ray.bindings import Apart
from wtb_ray.context import Calls, Context, Workspace, current_task, entered, running
from wtb_ray.faults import Aborted, traceback_of
from wtb_ray.overload import Overload, overload_of

PUBLIC: Final = ("tags", "metadata", "run_name", "recursion_limit")
"""What of a config crosses, beside what users put into `configurable`."""

Call = Callable[[Apart, "NodeCall"], AsyncGenerator["Message", None]]
"""Has a call performed elsewhere; the last message is an `Ended`."""


@dataclasses.dataclass(frozen=True)
class NodeCall:
    """One call of a node, on its way to the process that runs it."""

    id: str
    execution_id: str
    node: str
    """Its path."""
    input: Any
    config: dict[str, Any]
    """What users see of it."""
    context: Any
    """LangGraph's run context."""
    info: ExecutionInfo | None
    task_id: str
    place: tuple[int, int]
    """The super-step, and the last one that may be."""
    answers: list[Any]
    """To the questions that the task has asked so far, in order."""
    answer: Any
    """To the next one, where that was given without an id."""
    params: dict[str, Any]
    cache_scope: str
    workspace: str | None
    inputs: str | None
    limited: bool = False
    """Whether its runner has limits that it may wait for."""


@dataclasses.dataclass(frozen=True)
class Streamed:
    """Something for the custom stream."""

    value: Any


@dataclasses.dataclass(frozen=True)
class Beat:
    """The node is at work."""


@dataclasses.dataclass(frozen=True)
class Resumed:
    """The node took answers; these are all that it has taken."""

    answers: list[Any]


@dataclasses.dataclass(frozen=True)
class Asked:
    """Code of the node waits for a limit; its runner answers with a `Granted`."""

    number: int
    name: str
    amounts: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Granted:
    """It may go on, or why not."""

    number: int
    error: BaseException | None = None


@dataclasses.dataclass(frozen=True)
class Left:
    """That code needs its place no more, or does not wait for it any more."""

    number: int


@dataclasses.dataclass(frozen=True)
class Ended:
    """How the call ended: a value, questions, or an exception."""

    value: Any = None
    asked: tuple[Any, ...] = ()
    """Interrupts."""
    error: BaseException | None = None
    aborted: bool = False
    """The exception was no `Exception`, such as SystemExit."""
    traceback: str | None = None
    environment: str = ""
    """Digest of what the node ran in."""
    used: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    """What the node used, by task id of the root graph."""
    waited: dict[str, float] = dataclasses.field(default_factory=dict)
    """Seconds in which the node waited for limits, by the same ids."""
    overload: Overload | None = None
    """What of that kind is in the chain of the exception's causes, which does not cross."""
    commit: bool = False
    """Whether the node asked for its files to be kept."""


Message = Streamed | Beat | Resumed | Asked | Left | Ended


class RemoteTraceback(Exception):
    """Where in the node's process an exception was raised."""

    def __init__(self, text: str, overload: Overload | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.overload = overload

    def __str__(self) -> str:
        return f"\n{self.text}"


def packed(value: Any) -> bytes:
    """A call or message on its way.

    Raises:
        UnstorableValue: It holds something that cannot leave its process.
    """
    try:
        return cast(bytes, cloudpickle.dumps(value))
    except Exception as e:  # whatever the user's __reduce__ raises
        reason = f"{type(e).__name__}: {e}"
        raise errors.UnstorableValue(
            f"a value cannot leave its process: {reason}", reason=reason
        ) from e


def unpacked(data: bytes) -> Any:
    """What `packed` packed, from a process of this cluster.

    Raises:
        UnstorableValue: It holds something that this process does not know.
    """
    try:
        return pickle.loads(data)  # noqa: S301 - between processes of the bench itself
    except Exception as e:  # whatever the user's __setstate__ raises
        reason = f"{type(e).__name__}: {e}"
        raise errors.UnstorableValue(
            f"a value of another process cannot be had here: {reason}", reason=reason
        ) from e


class Crossing(RunnableCallable):
    """A node that has its calls performed elsewhere."""

    def __init__(self, apart: Apart, call: Call) -> None:
        async def run(state: Any, config: RunnableConfig) -> Any:
            return await _Caller(apart, call, config).go(state)

        super().__init__(None, run, name=apart.node, trace=False, recurse=False)
        self.apart = apart


class _Caller:
    """One call, as the graph's process sees it."""

    def __init__(self, apart: Apart, call: Call, config: RunnableConfig) -> None:
        self._apart = apart
        self._call = call
        self._config = config
        self._runtime: Runtime[Any] = config[CONF][CONFIG_KEY_RUNTIME]
        self._scratchpad: PregelScratchpad = config[CONF][CONFIG_KEY_SCRATCHPAD]

    async def go(self, state: Any) -> Any:
        context = running()
        calls = context.calls if context is not None and context.calls is not None else Calls()
        calls.add(1)
        ended = False
        try:
            made = self._made(state, context)
            async with aclosing(self._call(self._apart, made)) as messages:
                async for message in messages:
                    if isinstance(message, Ended):
                        ended = True
                        return self._concluded(message, context)
                    self._passed_on(message)
            raise errors.NodeActorDied(f"node {self._apart.node!r} gave no answer")
        except (errors.Unavailable, errors.InvalidRequest, errors.UnstorableValue):
            ended = True  # nothing of it runs anywhere
            raise
        finally:
            if ended:
                calls.add(-1)

    def _made(self, state: Any, context: Context | None) -> NodeCall:
        conf = self._config[CONF]
        place = context.workspace.ready() if context and context.workspace else None
        public: dict[str, Any] = {k: self._config[k] for k in PUBLIC if k in self._config}
        public[CONF] = {k: v for k, v in conf.items() if not k.startswith("__pregel")}
        return NodeCall(
            id=f"{conf[CONFIG_KEY_TASK_ID]}.{id(self):x}",
            execution_id=context.execution_id if context else "",
            node=self._apart.node,
            input=state,
            config=public,
            context=self._runtime.context,
            info=self._runtime.execution_info,
            task_id=conf[CONFIG_KEY_TASK_ID],
            place=(self._scratchpad.step, self._scratchpad.stop),
            answers=list(self._scratchpad.resume),
            answer=self._scratchpad.get_null_resume(False),
            params=dict(context.params.get(self._apart.node, {})) if context else {},
            cache_scope=context.cache_scope if context else "",
            workspace=None if place is None else str(place),
            inputs=None if place is None else place.inputs,
            limited=context is not None and context.limits is not None,
        )

    def _passed_on(self, message: Message) -> None:
        match message:
            case Streamed(value):
                self._runtime.stream_writer(value)
            case Beat():
                self._runtime.heartbeat()
            case Resumed(answers):
                if len(answers) > len(self._scratchpad.resume):
                    self._scratchpad.get_null_resume(True)
                    self._scratchpad.resume[:] = answers
                self._config[CONF][CONFIG_KEY_SEND]([(RESUME, answers)])

    def _concluded(self, message: Ended, context: Context | None) -> Any:
        if context is not None and context.calls is not None:
            own = current_task()  # in its own process a node has no place in a graph
            for task_id, amounts in message.used.items():
                context.calls.spend(task_id or own, amounts)
            for task_id, seconds in message.waited.items():
                context.calls.add_wait(task_id or own, seconds)
            if message.environment:
                outer = self._apart.node.partition("/")[0]
                context.calls.environments[outer] = message.environment
        if message.commit and context is not None and context.workspace is not None:
            context.workspace.commit()
        if message.asked:
            raise GraphInterrupt(message.asked)
        if message.error is None:
            return message.value
        cause = RemoteTraceback(message.traceback or "", message.overload)
        if message.aborted:
            error = message.error
            error.__cause__ = cause
            raise Aborted(f"{type(error).__name__}: {error}") from error
        raise message.error from cause


class CallLimits:
    """The limits of a call: its runner takes from them, and is asked by messages."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.tell: Callable[[Message], None]
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[None]] = {}

    async def take(self, name: str, amounts: Mapping[str, float]) -> Callable[[], None]:
        """See `wtb_ray.context.Limits`."""
        number = next(self._numbers)
        turn = self._waiting[number] = self.loop.create_future()
        self.tell(Asked(number, name, dict(amounts)))
        try:
            await turn
        except BaseException:
            self.tell(Left(number))
            raise
        finally:
            del self._waiting[number]
        return functools.partial(self.tell, Left(number))

    def granted(self, granted: Granted) -> None:
        """The runner's answer."""
        turn = self._waiting.get(granted.number)
        if turn is None or turn.done():
            return
        if granted.error is None:
            turn.set_result(None)
        else:
            turn.set_exception(granted.error)


async def perform(
    call: NodeCall, runnable: Any, calls: Calls, limits: CallLimits | None = None
) -> AsyncGenerator[Message, None]:
    """Runs a node for a call of another process, whose sync code is counted in `calls`.

    Closing the generator cancels the node.
    """
    loop = asyncio.get_running_loop()
    messages: asyncio.Queue[Message | None] = asyncio.Queue()

    def tell(message: Message) -> None:  # from any thread
        loop.call_soon_threadsafe(messages.put_nowait, message)

    if limits is not None:
        limits.tell = tell
    workspace = _workspace(call)
    config = _config(call, tell)
    with entered(_context(call, workspace, calls, limits)), set_config_context(config) as context:
        task = loop.create_task(runnable.ainvoke(call.input, config), context=context)
    task.add_done_callback(lambda _: messages.put_nowait(None))
    try:
        while (message := await messages.get()) is not None:
            yield message
        yield dataclasses.replace(_end(task, workspace), used=calls.used, waited=calls.waited)
    finally:
        calls.over = True
        task.cancel()


def _end(task: "asyncio.Task[Any]", workspace: Workspace | None) -> Ended:
    commit = workspace is not None and workspace.take_commit()
    try:
        return Ended(value=task.result(), commit=commit)
    except GraphInterrupt as e:
        return Ended(asked=tuple(e.args[0]), commit=commit)
    except asyncio.CancelledError:
        raise
    except Aborted as e:
        inner = e.__cause__ or e
        where = traceback_of(inner)
        return Ended(error=_portable(inner), aborted=True, traceback=where)
    except BaseException as e:  # noqa: BLE001 - whatever the user's code raises
        where, overload = traceback_of(e), overload_of(e)
        return Ended(error=_portable(e), traceback=where, overload=overload, commit=commit)


def _portable(error: BaseException) -> BaseException:
    """The exception, or one of the same name and message where it cannot leave this process."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    try:
        pickle.loads(cloudpickle.dumps(error))  # noqa: S301 - just made
    except Exception:  # noqa: BLE001 - whatever its __reduce__ or __init__ raises
        named = type(type(error).__name__, (Exception,), {"__module__": __name__})
        return cast(BaseException, named(str(error)))
    return error


def _workspace(call: NodeCall) -> Workspace | None:
    if call.workspace is None:
        return None
    workspace = Workspace(call.workspace)
    workspace.inputs = call.inputs
    return workspace


def _context(
    call: NodeCall, workspace: Workspace | None, calls: Calls, limits: CallLimits | None
) -> Context:
    return Context(
        execution_id=call.execution_id,
        params={call.node: call.params},
        cache_scope=call.cache_scope,
        workspace=workspace,
        calls=calls,
        limits=limits,
    )


def _config(call: NodeCall, tell: Callable[[Message], None]) -> RunnableConfig:
    lock, unasked = threading.Lock(), [call.answer]

    def get_null_resume(consume: bool) -> Any:
        with lock:
            answer = unasked[0]
            if consume:
                unasked[0] = None
            return answer

    def send(writes: Any) -> None:
        for channel, value in writes:
            if channel == RESUME:
                tell(Resumed(list(value)))

    runtime: Runtime[Any] = Runtime(
        context=call.context,
        stream_writer=lambda value: tell(Streamed(value)),
        heartbeat=lambda: tell(Beat()),
        execution_info=call.info,
    )
    step, stop = call.place
    scratchpad = PregelScratchpad(
        step=step,
        stop=stop,
        call_counter=LazyAtomicCounter(),
        interrupt_counter=LazyAtomicCounter(),
        get_null_resume=get_null_resume,
        resume=list(call.answers),
        subgraph_counter=LazyAtomicCounter(),
    )
    configurable = {
        **call.config[CONF],
        CONFIG_KEY_TASK_ID: call.task_id,
        CONFIG_KEY_SEND: send,
        CONFIG_KEY_READ: _no_reading,
        CONFIG_KEY_SCRATCHPAD: scratchpad,
        CONFIG_KEY_RUNTIME: runtime,
    }
    return cast(RunnableConfig, {**call.config, CONF: configurable})


def _no_reading(*_: Any, **__: Any) -> Any:
    raise errors.UnsupportedNode(
        "a node in an actor of its own cannot read other channels than its input",
        reason="reads the state of the graph",
    )
