"""Limits as operators set them, and what a reservation in their token buckets means. Models only.

A limit has a token bucket for each unit: it holds `burst` at most and fills at `per_minute`. Whoever
takes more than is there is in debt, and waits until that is paid off. So what is spent in any span of
time is never more than the burst and what the rate gives in it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field, field_validator, model_validator

from wtb_ray.frozen import Frozen

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"
UNIT: Final = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
MOST: Final = 1e12
CHUNK_S: Final = 1.0
"""A process reserves as much as the rate gives in this time, or what its first waiter needs."""

Amounts = Mapping[str, float]
"""By unit."""


class Rate(Frozen):
    """How fast one unit may be spent."""

    per_minute: float = Field(gt=0, le=MOST, allow_inf_nan=False)
    burst: float = Field(gt=0, le=MOST, allow_inf_nan=False)
    """Capacity of the bucket: the most that is spent at once. Left out, it is that of a minute."""

    @model_validator(mode="before")
    @classmethod
    def _of_a_minute(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("burst") is None and "per_minute" in value:
            return {**value, "burst": value["per_minute"]}
        return value


class LimitSpec(Frozen):
    """Body of `PUT limits/{name}`."""

    units: dict[Annotated[str, Field(pattern=UNIT)], Rate] = Field(default_factory=dict)
    """Rates by unit, such as `requests` and `tokens`; what has no rate is not limited."""
    concurrency: int | None = Field(default=None, ge=1, le=1_000_000)
    """Most that are inside at once, in the whole cluster; null: any number."""

    @field_validator("units")
    @classmethod
    def _few(cls, value: dict[str, Rate]) -> dict[str, Rate]:
        if len(value) > 16:
            raise ValueError(f"{len(value)} units, 16 allowed")
        return value

    @model_validator(mode="after")
    def _limits_something(self) -> "LimitSpec":
        if not self.units and self.concurrency is None:
            raise ValueError("it limits nothing: give a rate or a concurrency")
        return self

    def above(self, amounts: Amounts) -> tuple[str, float, float] | None:
        """A unit of which more is asked for than its bucket holds: unit, asked, most."""
        for unit, rate in self.units.items():
            asked = amounts.get(unit, 0.0)
            if asked > rate.burst:
                return unit, asked, rate.burst
        return None

    def chunk(self, asks: Sequence[Amounts]) -> int:
        """How many of these waiters, the first of them at least, one reservation is to serve."""
        count, sums = 0, dict.fromkeys(self.units, 0.0)
        for asked in asks:
            sums = {unit: total + asked.get(unit, 0.0) for unit, total in sums.items()}
            rates = self.units.items()
            if count and any(sums[u] > min(r.burst, r.per_minute * CHUNK_S / 60) for u, r in rates):
                break
            count += 1
        return count


class Limit(LimitSpec):
    """A limit, and how it stands."""

    name: str
    levels: dict[str, float]
    """What is in the buckets now, by unit; below 0: reserved by those who wait."""
    inside: int
    """How many are inside, where there is a concurrency."""
    created_at: datetime
    updated_at: datetime


class Reserved(Frozen):
    """What a reservation left in the buckets."""

    spec: LimitSpec
    levels: dict[str, float]

    def delays(self, asks: Sequence[Amounts]) -> list[float]:
        """Seconds after which each of the waiters that were reserved for may go on, in their order."""
        delays = []
        after = dict.fromkeys(self.levels, 0.0)
        for asked in reversed(asks):
            waits = (
                -(level + after[unit]) * 60 / self.spec.units[unit].per_minute
                for unit, level in self.levels.items()
            )
            delays.append(max(0.0, *waits) if self.levels else 0.0)
            after = {unit: total + asked.get(unit, 0.0) for unit, total in after.items()}
        return delays[::-1]


class Slots(Frozen):
    """How one process stands with the concurrency of a limit."""

    holder: str
    held: int
    wanted: bool
    """It waits for more."""
    waits_s: float
    """For how long."""


def more_slots(
    concurrency: int, held: int, wanted: int, waits_s: float, others: Sequence[Slots]
) -> int:
    """How many more slots a process gets: those that have waited longer come first, with one each."""
    free = concurrency - held - sum(one.held for one in others)
    before = sum(one.wanted and one.waits_s > waits_s for one in others)
    return max(0, min(wanted, free - before))
