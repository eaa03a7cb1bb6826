"""`limit`: code of a node waits until the cluster may do more of something."""

import asyncio
import math
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final

from langgraph.runtime import Runtime, get_runtime

from wtb_ray import errors
from wtb_ray.context import Calls, Limits, current_task, running

BEAT_S: Final = 0.2
"""How often code that waits says that it does, for timeouts of its node."""

GiveBack = Callable[[], None]


class limit:  # noqa: N801 - it is used as a function, like `contextlib.suppress`
    """Waits until a limit that the whole cluster shares lets this code go on.

    `async with limit("openai", tokens=900):` in async code, `with` in sync nodes and threads. It takes
    one request and the named amounts, and one of the limit's slots until the block ends; what the
    limit has no rate for is not limited. First come, first served. The time of waiting is in `waited_ms`
    of the node, and in no latency or timeout. Outside the bench it does nothing.

    Raises:
        InvalidRequest: An amount is negative or no number, or `with` stands in async code.
        UnknownLimit: The operator has set no limit of this name.
        LimitUnmeetable: More is asked for than the limit ever has; names both.
        Conflict: The run is over.
    """

    def __init__(self, name: str, *, requests: float = 1, **amounts: float) -> None:
        self._name = name
        self._amounts = {"requests": requests, **amounts}
        for unit, amount in self._amounts.items():
            number = isinstance(amount, int | float) and not isinstance(amount, bool)
            if not (number and math.isfinite(amount) and amount >= 0):
                raise errors.InvalidRequest(
                    f"{unit}={amount!r} is no amount", field=unit, reason="not a number from 0 on"
                )
        self._given: list[GiveBack] = []

    async def __aenter__(self) -> "limit":
        found = _limits()
        if found is None:
            return self
        limits, calls = found
        taking = _Taking(limits, self._name, self._amounts)
        self._given.append(await _waited(calls, taking))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._end()

    def __enter__(self) -> "limit":
        found = _limits()
        if found is None:
            return self
        limits, calls = found
        if limits.loop == _loop_of_this_thread():
            raise errors.InvalidRequest(
                "this would hold up the event loop: write `async with wtb_ray.limit(...)`",
                field="limit",
                reason="sync in async code",
            )
        taking = _Taking(limits, self._name, self._amounts)
        self._given.append(_waited_in_thread(calls, taking))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._given:
            self._given.pop()()


def _limits() -> tuple[Limits, Calls] | None:
    context = running()
    if context is None or context.limits is None:
        return None
    return context.limits, context.calls or Calls()


def _loop_of_this_thread() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class _Taking:
    """A wait on the loop of the limits, for code on any thread."""

    def __init__(self, limits: Limits, name: str, amounts: Mapping[str, float]) -> None:
        self._loop = limits.loop
        self._given: list[GiveBack] = []
        self.future = asyncio.run_coroutine_threadsafe(
            self._take(limits, name, amounts), self._loop
        )

    async def _take(self, limits: Limits, name: str, amounts: Mapping[str, float]) -> None:
        self._given.append(await limits.take(name, amounts))

    @property
    def given(self) -> GiveBack:
        return self._given[0]

    def drop(self) -> None:
        """Nobody waits any more; what has come meanwhile goes back."""
        self.future.cancel()
        # Later than the cancelling, which runs there too: it has come by then, or never will.
        self._loop.call_soon_threadsafe(self._give_back)

    def _give_back(self) -> None:
        for give_back in self._given:
            give_back()


async def _waited(calls: Calls, taking: _Taking) -> GiveBack:
    beat, task_id = _heartbeat(), current_task()
    future = asyncio.wrap_future(taking.future)
    calls.begin_wait(task_id)
    try:
        while not future.done():
            beat()
            await asyncio.wait({future}, timeout=BEAT_S)
        future.result()
        return taking.given
    except asyncio.CancelledError:
        taking.drop()
        raise
    finally:
        calls.end_wait(task_id)
        beat()


def _waited_in_thread(calls: Calls, taking: _Taking) -> GiveBack:
    beat, task_id = _heartbeat(), current_task()
    calls.begin_wait(task_id)
    try:
        while True:
            beat()
            try:
                taking.future.result(BEAT_S)
                return taking.given
            except TimeoutError:
                if taking.future.done():
                    raise
            if calls.over:
                taking.drop()
                raise errors.Conflict("the run that waits is over", reason="run_is_over")
    finally:
        calls.end_wait(task_id)
        beat()


def _heartbeat() -> Callable[[], None]:
    try:
        runtime: Runtime[Any] | None = get_runtime()
    except (RuntimeError, KeyError):  # not inside a graph
        runtime = None
    return _nothing if runtime is None else runtime.heartbeat


def _nothing() -> None:
    pass
