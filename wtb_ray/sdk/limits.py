"""Limits for programs and notebooks: a part of both benches, and the requests behind it."""

import abc
from collections.abc import Mapping
from typing import TypeVar

from pydantic import ValidationError

from wtb_ray import errors
from wtb_ray.rates import Limit, LimitSpec
from wtb_ray.sdk.calls import get, quoted, send
from wtb_ray.sdk.flows import Flow, ask

Answer = TypeVar("Answer")

AnyRate = float | tuple[float, float]
"""A minute's amount, or that and the most that is spent at once."""


def listed() -> Flow[list[Limit]]:
    return ask(get("/limits", list[Limit]))


def put(name: str, concurrency: int | None, rates: Mapping[str, AnyRate]) -> Flow[Limit]:
    units = {
        unit: dict(zip(("per_minute", "burst"), rate, strict=True))
        if isinstance(rate, tuple | list)
        else {"per_minute": rate}
        for unit, rate in rates.items()
    }
    try:
        spec = LimitSpec.model_validate({"units": units, "concurrency": concurrency})
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "units"
        raise errors.InvalidRequest(
            f"limit {name!r}: {field}: {first['msg']}", field=field, reason=first["msg"]
        ) from e
    return ask(send("PUT", f"/limits/{quoted(name)}", spec, Limit))


def delete(name: str) -> Flow[Limit]:
    return ask(send("DELETE", f"/limits/{quoted(name)}", None, Limit))


class LimitsOfBench(abc.ABC):
    """What the whole cluster may do of something: a part of `WTBTestBench`."""

    @abc.abstractmethod
    def flow(self, flow: Flow[Answer]) -> Answer:
        """The result of several calls and of the pauses between them."""

    def limits(self) -> list[Limit]:
        """All limits by name, and how they stand."""
        return self.flow(listed())

    def set_limit(self, name: str, *, concurrency: int | None = None, **rates: AnyRate) -> Limit:
        """Make a limit, or change it: `set_limit("openai", requests=500, tokens=(90_000, 20_000))`.

        Args:
            name: What nodes call `wtb_ray.limit` with.
            concurrency: Most that are inside at once, in the whole cluster.
            rates: By unit: how much a minute, or a pair of that and of the most that is spent at
                once, which otherwise is that of a minute.

        Raises:
            InvalidRequest: A number is not above 0, or it limits nothing.
        """
        return self.flow(put(name, concurrency, rates))

    def remove_limit(self, name: str) -> Limit:
        """Remove a limit; nodes that wait for it are refused. Gives what it was.

        Raises:
            UnknownLimit: There is none of this name.
        """
        return self.flow(delete(name))


class AsyncLimitsOfBench(abc.ABC):
    """What the whole cluster may do of something: a part of `AsyncTestBench`."""

    @abc.abstractmethod
    async def flow(self, flow: Flow[Answer]) -> Answer:
        """The result of several calls and of the pauses between them."""

    async def limits(self) -> list[Limit]:
        """All limits by name, and how they stand."""
        return await self.flow(listed())

    async def set_limit(
        self, name: str, *, concurrency: int | None = None, **rates: AnyRate
    ) -> Limit:
        """Make a limit, or change it; see `WTBTestBench.set_limit`."""
        return await self.flow(put(name, concurrency, rates))

    async def remove_limit(self, name: str) -> Limit:
        """Remove a limit; see `WTBTestBench.remove_limit`."""
        return await self.flow(delete(name))
