"""Commands that are done once per key, whoever asks how often."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass

from wtb_ray import errors
from wtb_ray.model import keyed_id, keyed_seed
from wtb_ray.serve.context import Context

MAX_KEY = 255

_SEED: ContextVar[str | None] = ContextVar("wtb_idempotency_seed", default=None)


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    status: int
    body: str
    replayed: bool = False


Perform = Callable[[], Awaitable[Answer]]


def id_of(prefix: str) -> str | None:
    """The id of what the present command makes, if it has a key: the same key, the same id.

    So a command whose answer was lost makes nothing twice, whatever died in between.
    """
    seed = _SEED.get()
    return None if seed is None else keyed_id(prefix, seed)


async def once(context: Context, key: str | None, request: str, perform: Perform) -> Answer:
    """Performs a command, or gives the answer that it had under the same key.

    Only success is kept: a command that was refused may be mended and sent again. `request` is a
    digest of all that makes the command.

    Raises:
        InvalidRequest: This is no key.
        IdempotencyConflict: The key was used with another request.
        Conflict: The first request with this key is still under way.
    """
    if key is None:
        return await context.finish(_call(perform))
    if not (0 < len(key) <= MAX_KEY and key.isprintable()):
        raise errors.InvalidRequest(
            f"an idempotency key has 1 to {MAX_KEY} printable characters",
            field="Idempotency-Key",
            reason="not a key",
        )
    return await context.finish(_keyed(context, key, request, perform))


async def _call(perform: Perform) -> Answer:
    return await perform()


async def _keyed(context: Context, key: str, request: str, perform: Perform) -> Answer:
    keys = context.store.idempotency
    stored = await keys.begin(key, request)
    if stored is not None:
        status, body = stored
        return Answer(status, body, replayed=True)
    _SEED.set(keyed_seed(key, request))
    try:
        answer = await perform()
    except BaseException:
        await keys.forget(key)
        raise
    if answer.status < 400:
        await keys.finish(key, answer.status, answer.body)
    else:
        await keys.forget(key)
    return answer
