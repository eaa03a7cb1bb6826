"""Why a run failed: the exception of a run as a `Fault` that can be stored and shown.

The node to blame is read from the exception that was raised, by the frames it passed through, never
from what tasks left behind: a cancelled sibling carries an error of its own. Reducers, key conflicts
and the recursion limit fail outside any node, and a router fails after its node has ended.
"""

import asyncio
import concurrent.futures
import copy
import functools
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final, cast

import langchain_core
import langgraph.pregel as langgraph_pregel
from langchain_core.runnables.config import run_in_executor
from langgraph._internal._runnable import RunnableCallable
from langgraph.graph._branch import BranchSpec
from langgraph.pregel import Pregel
from langgraph.pregel._retry import arun_with_retry, run_with_retry

from wtb_ray import errors, secret_values
from wtb_ray.context import counted
from wtb_ray.model import Fault
from wtb_ray.overload import overload_of

TASK: Final = frozenset({arun_with_retry.__code__, run_with_retry.__code__})
"""LangGraph runs every task in one of these; the frame knows the task and its attempt."""
ROUTER: Final = frozenset({BranchSpec._route.__code__, BranchSpec._aroute.__code__})
LOOP: Final = frozenset({Pregel.stream.__code__, Pregel.astream.__code__})

LANGGRAPH: Final = str(Path(langgraph_pregel.__file__).parents[1])
MACHINERY: Final = (
    LANGGRAPH,
    str(Path(langchain_core.__file__).parent),
    str(Path(asyncio.__file__).parent),
    str(Path(concurrent.futures.__file__).parents[1]),
)
OURS: Final = frozenset(
    str(Path(__file__).with_name(f"{name}.py"))
    for name in ("running", "faults", "crossing", "limits", "saver", "db")
)
OWN: Final = (errors.UnstorableValue, errors.FilesRefused, errors.StorageFull)
"""What the bench itself raises between super-steps: a step that cannot be kept."""
LIMITS: Final = (errors.UnknownLimit, errors.LimitUnmeetable)
"""What a node may hear from `wtb_ray.limit`."""
LONGEST_MESSAGE: Final = 4_000
LONGEST_TRACEBACK: Final = 16_000


class Aborted(Exception):
    """A node raised what is no `Exception`, such as SystemExit; that is the cause of this one."""


def guarded(runnable: Any, *, timed: bool = False) -> Any:
    """The same node, which cannot end the process: such exceptions become errors of the node.

    A `SystemExit` in a task of asyncio ends the event loop, and with it all executions on it. One that
    is `timed` can have a timeout although it is sync: its thread is left behind then.
    """
    if not isinstance(runnable, RunnableCallable) or runnable.afunc is None:
        return runnable
    made, function = copy.copy(runnable), runnable.afunc
    if isinstance(function, functools.partial) and function.func is run_in_executor:
        *before, sync = function.args
        function = functools.partial(function.func, *before, _guarded_sync(sync))
        if timed:
            function = _awaiting(function)
    else:
        function = _guarded_async(function)
    made.afunc = functools.update_wrapper(cast(Any, function), cast(Any, runnable.afunc))
    return made


def _guarded_async(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return await function(*args, **kwargs)
        except (Exception, asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as e:
            raise Aborted(f"{type(e).__name__}: {e}") from e

    return call


def _awaiting(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """LangGraph tells by the partial that a node is sync, and refuses it a timeout."""

    async def call(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return call


def _guarded_sync(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            with counted():
                return function(*args, **kwargs)
        except (Exception, asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as e:
            raise Aborted(f"{type(e).__name__}: {e}") from e

    return call


def fault_of(error: BaseException) -> Fault:
    """The fault of a run that raised: who, what, at which attempt, and where in the user's code."""
    code, node, attempt = _blame(error)
    if isinstance(error, LIMITS):
        code = error.code
    elif (overload := overload_of(error)) is not None:
        code = overload.code
    if isinstance(error, Aborted) and error.__cause__ is not None:
        error = error.__cause__
    return Fault(
        code=code,
        type=type(error).__name__,
        message=_clean(_message(error), LONGEST_MESSAGE),
        node=node,
        attempt=attempt,
        traceback=_clean(traceback_of(error), LONGEST_TRACEBACK),
    )


def _blame(error: BaseException) -> tuple[str, str | None, int]:
    if isinstance(error, OWN):
        return error.code, None, 1
    path: dict[str, str] = {}
    attempt, after = 1, list[FrameType]()
    for frame in _frames(error):
        if frame.f_code not in TASK:
            after.append(frame)
            continue
        task = frame.f_locals["task"]
        if task.id not in path:  # the same exception may have passed here in an earlier attempt
            path[task.id], attempt, after = task.name, _attempt(frame), []
    if not path:
        return errors.GraphFailed.code, None, 1
    code = errors.GraphFailed.code if _outside(after) else errors.NodeFailed.code
    return code, "/".join(path.values()), attempt


def _frames(error: BaseException) -> Iterator[FrameType]:
    entry = error.__traceback__
    while entry is not None:
        yield entry.tb_frame
        entry = entry.tb_next


def _attempt(frame: FrameType) -> int:
    runtime = frame.f_locals["config"]["configurable"]["__pregel_runtime"]
    return int(runtime.execution_info.node_attempt)


def _outside(frames: list[FrameType]) -> bool:
    """Whether a router, or the loop of a subgraph, came before any code of the user."""
    for frame in frames:
        if frame.f_code in ROUTER or frame.f_code in LOOP:
            return True
        if not frame.f_code.co_filename.startswith(MACHINERY):
            return False
    return False


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as e:  # noqa: BLE001 - the user's __str__ can raise anything
        return f"<the message cannot be shown: __str__ raised {type(e).__name__}>"


def traceback_of(error: BaseException) -> str:
    """Where it was raised, in the user's code; the machinery between is left out."""
    told = traceback.TracebackException.from_exception(error, limit=-100)
    _trim(told)
    return "".join(told.format())


def _trim(told: traceback.TracebackException) -> None:
    kept = [
        f for f in told.stack if not f.filename.startswith(MACHINERY) and f.filename not in OURS
    ]
    if kept:
        told.stack = traceback.StackSummary.from_list(kept)
    told.__notes__ = []
    for part in (told.__cause__, told.__context__, *(told.exceptions or ())):
        if part is not None:
            _trim(part)


def _clean(text: str, longest: int) -> str:
    """Text that may be stored: no secrets, no NUL, no lone surrogates, not too long."""
    text = (
        secret_values.blacked_out(text)
        .replace("\x00", "\\x00")
        .encode("utf-8", "backslashreplace")
        .decode()
    )
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n... {len(text) - longest} characters left out ...\n{text[-half:]}"
