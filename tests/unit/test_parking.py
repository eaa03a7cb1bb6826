"""Which strategy a pause takes: by what was asked for, how long it lasts, and what it would hold."""

import pytest

from wtb_ray import errors
from wtb_ray.parking import HOT_BELOW_S, WARM_BELOW_S, choose
from wtb_ray.states import PauseStrategy as P


@pytest.mark.parametrize(
    ("expected_s", "gpus", "chosen"),
    [
        (None, 0, P.HOT),
        (None, 1, P.HOT),
        (0, 0, P.HOT),
        (HOT_BELOW_S - 1, 0, P.HOT),
        (HOT_BELOW_S - 1, 1, P.HOT),
        (HOT_BELOW_S, 0, P.WARM),
        (HOT_BELOW_S, 0.5, P.COLD),
        (WARM_BELOW_S - 1, 0, P.WARM),
        (WARM_BELOW_S - 1, 1, P.COLD),
        (WARM_BELOW_S, 0, P.COLD),
        (86_400, 0, P.COLD),
    ],
)
def test_duration_and_gpus_choose(expected_s: float | None, gpus: float, chosen: P) -> None:
    assert choose(expected_s, gpus=gpus) is chosen


@pytest.mark.parametrize("strategy", list(P))
@pytest.mark.parametrize("expected_s", [None, 1, 600, 86_400])
def test_an_explicit_choice_wins(strategy: P, expected_s: float | None) -> None:
    assert choose(expected_s, gpus=1, explicit=strategy) is strategy
    assert choose(expected_s, gpus=1, explicit=str(strategy)) is strategy


@pytest.mark.parametrize("expected_s", [-1, float("nan"), float("inf")])
def test_what_is_no_duration_is_refused(expected_s: float) -> None:
    with pytest.raises(errors.InvalidRequest) as e:
        choose(expected_s, explicit="hot")
    assert e.value.details["field"] == "expected_s"


def test_what_is_no_strategy_is_refused_with_those_there_are() -> None:
    with pytest.raises(errors.InvalidRequest, match="hot, warm, cold") as e:
        choose(explicit="tepid")
    assert e.value.details["field"] == "strategy"
