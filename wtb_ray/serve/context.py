"""What every handler of the ingress works with, and how commands reach the controller.

Reads go to Postgres through the store; commands go to the controller's handle and are carried out
to their end even when the caller leaves. Errors of Ray never get further than this file.
"""

import asyncio
import contextvars
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg
from pydantic import ValidationError
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from wtb_ray import errors, placement
from wtb_ray.db import Database
from wtb_ray.holds import Holds
from wtb_ray.objects import ObjectStore
from wtb_ray.serve.auth import Gate
from wtb_ray.serve.stream import Feed
from wtb_ray.settings import Settings
from wtb_ray.store import Store

Result = TypeVar("Result")


def invalid(error: ValidationError, *, field: str = "") -> errors.InvalidRequest:
    """The typed form of what pydantic found; `field` is where the validated value stands."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(filter(None, [field, *map(str, first["loc"])]))
    return errors.InvalidRequest(f"{where}: {first['msg']}", field=where, reason=first["msg"])


def translated(error: Exception) -> Exception:
    """The error of ours that a failed call of the controller means, or the error itself."""
    cause = placement.unwrap(error)
    if isinstance(cause, errors.WTBError):
        return cause
    if isinstance(cause, ValidationError):
        return invalid(cause)
    if isinstance(cause, psycopg.DataError):
        return unstorable(cause)
    if cause is error and isinstance(error, RayError | RayServeException):
        return errors.Unavailable("the controller does not answer")
    return error


def unstorable(error: psycopg.DataError) -> errors.InvalidRequest:
    """A value that Postgres cannot hold: a NUL character, a number out of range."""
    reason = str(error).partition("\n")[0]
    return errors.InvalidRequest("a value cannot be stored", field="", reason=reason)


@dataclass
class Context:
    """The parts of one ingress process."""

    settings: Settings
    db: Database
    store: Store
    objects: ObjectStore
    controller: Any
    """The controller's handle: `controller.method.remote(...)` is awaited."""
    feed: Feed
    gate: Gate = field(default_factory=Gate)
    holds: Holds = field(init=False)
    """Leases on the objects that this process stores and reads."""
    _running: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.holds = Holds(self.store.holds, "ingress")

    async def command(self, method: str, *args: Any) -> Any:
        """Has the controller do something.

        Raises:
            WTBError: What the controller raised.
            Unavailable: It does not answer.
        """
        try:
            return await getattr(self.controller, method).remote(*args)
        except Exception as e:
            raise translated(e) from e

    async def finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Carries the work out to its end, also when the caller is cancelled meanwhile.

        Serve cancels what a request has called when its client leaves; the empty context hides the
        work from it. Without that a command could be done while its answer is thrown away.
        """
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Ends the feed, waits for commands that are under way, closes the pool."""
        await self.feed.close()
        if self._running:
            await asyncio.wait(self._running, timeout=5)
        await self.holds.close()
        await self.objects.aclose()
        await self.db.close()
