"""The arithmetic of limits, what is refused of them, and `wtb_ray.limit` outside the bench."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import wtb_ray
from wtb_ray import errors
from wtb_ray.environment import ExecutionConfig, RetryConfig
from wtb_ray.model import BatchSpec, Case, ProjectSpec
from wtb_ray.rates import LimitSpec, Rate, Reserved, Slots, more_slots


def spec(**rates: tuple[float, float]) -> LimitSpec:
    units = {unit: Rate(per_minute=rate, burst=burst) for unit, (rate, burst) in rates.items()}
    return LimitSpec(units=units)


def test_a_burst_that_is_not_said_is_that_of_a_minute() -> None:
    assert Rate.model_validate({"per_minute": 500}).burst == 500
    assert Rate.model_validate({"per_minute": 500, "burst": 5}).burst == 5


@pytest.mark.parametrize("number", [0, -1, float("nan"), float("inf"), 1e13, "many"])
def test_numbers_that_are_no_rates_are_refused(number: Any) -> None:
    for field in ("per_minute", "burst"):
        with pytest.raises(ValidationError, match=field):
            Rate.model_validate({"per_minute": 1, "burst": 1, field: number})
    if number != 1e13:
        with pytest.raises(ValidationError):
            LimitSpec(concurrency=number)


def test_a_limit_that_limits_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="limits nothing"):
        LimitSpec()
    with pytest.raises(ValidationError, match="units"):
        LimitSpec.model_validate({"units": {"no unit": {"per_minute": 1}}})


def test_who_waits_is_let_in_when_what_was_reserved_before_it_is_paid_off() -> None:
    limit = spec(requests=(60, 10), tokens=(600, 100))
    asks = [{"requests": 1.0, "tokens": t} for t in (50.0, 60.0, 40.0)]
    # 80 tokens were there: 30 are left after the first, 30 are owed after the second, then 70.
    reserved = Reserved(spec=limit, levels={"requests": 7.0, "tokens": -70.0})
    assert reserved.delays(asks) == [0, 3, 7]


def test_a_chunk_is_the_first_waiter_or_what_the_rate_gives_in_a_second() -> None:
    limit = spec(requests=(600, 100), tokens=(60_000, 5_000))
    assert limit.chunk([{"requests": 1.0}] * 50) == 10
    assert limit.chunk([{"tokens": 5_000.0}, {"tokens": 1.0}]) == 1
    assert limit.chunk([{"tokens": 400.0}] * 5) == 2
    assert limit.chunk([{"else": 1e9}] * 5) == 5


@given(
    rate=st.floats(1, 1e4),
    burst=st.floats(1, 1e3),
    amounts=st.lists(st.floats(0.01, 1), min_size=1, max_size=30),
    chunks=st.lists(st.integers(1, 7), min_size=30, max_size=30),
    pauses=st.lists(st.floats(0, 5), min_size=30, max_size=30),
)
def test_no_window_has_more_than_the_burst_and_what_the_rate_gives(
    rate: float, burst: float, amounts: list[float], chunks: list[int], pauses: list[float]
) -> None:
    """The bucket of the database, by hand: refilled, and drawn on into debt."""
    limit = spec(x=(rate, burst))
    asks = [{"x": amount * burst} for amount in amounts]
    level, now, spent = burst, 0.0, []
    for size, pause in zip(chunks, pauses, strict=True):
        if not asks:
            break
        chunk, asks = asks[:size], asks[size:]
        level = min(burst, level + pause * rate / 60)
        now += pause
        level -= sum(asked["x"] for asked in chunk)
        delays = Reserved(spec=limit, levels={"x": level}).delays(chunk)
        assert delays == sorted(delays)
        spent += [(now + d, asked["x"]) for d, asked in zip(delays, chunk, strict=True)]
    spent.sort()
    for i, (first, _) in enumerate(spent):
        total = 0.0
        for last, amount in spent[i:]:
            total += amount
            assert total <= (burst + (last - first) * rate / 60) * (1 + 1e-9) + 1e-6


def test_slots_go_to_those_first_who_have_waited_longer() -> None:
    others = [
        Slots(holder="a", held=2, wanted=True, waits_s=9),
        Slots(holder="b", held=1, wanted=False, waits_s=0),
    ]
    assert more_slots(10, 3, 20, 1, others) == 3, "one of the four is for a"
    assert more_slots(10, 3, 20, 10, others) == 4
    assert more_slots(10, 3, 2, 1, others) == 2
    assert more_slots(5, 3, 1, 1, others) == 0


async def test_outside_the_bench_a_limit_does_nothing() -> None:
    async with wtb_ray.limit("nobody", tokens=10**9):
        pass
    with wtb_ray.limit("nobody", requests=0):
        pass


@pytest.mark.parametrize("amount", [-1, float("nan"), float("inf"), "many", None, True])
def test_amounts_that_are_none_are_refused(amount: Any) -> None:
    with pytest.raises(errors.InvalidRequest, match="tokens") as refused:
        wtb_ray.limit("api", tokens=amount)
    assert refused.value.details["field"] == "tokens"


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_times_that_are_none_are_refused(seconds: float) -> None:
    for field, value in (("node_timeouts", {"n": seconds}), ("default_timeout_s", seconds)):
        with pytest.raises(ValidationError, match=field):
            ExecutionConfig.model_validate({field: value})
    for field in ("initial_interval_s", "max_interval_s", "backoff", "max_attempts"):
        with pytest.raises(ValidationError, match=field):
            RetryConfig.model_validate({field: seconds})
    with pytest.raises(ValidationError, match="deadline_s"):
        BatchSpec(project="p", variants=({},), cases=(Case(id="c", input={}),), deadline_s=seconds)


def test_what_is_not_configured_leaves_the_version_as_it_was() -> None:
    plain = ProjectSpec(name="p", entry="m:f", execution=ExecutionConfig(recursion_limit=7))
    assert plain.version() == "8dc2a1f504ee1740088531a0eae5bcaf6eab8baac552574a996eef6851a2754f"
    timed = ExecutionConfig(recursion_limit=7, default_timeout_s=1)
    assert plain.model_copy(update={"execution": timed}).version() != plain.version()
