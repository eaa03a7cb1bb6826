"""The planner: what is counted, in which order, under which names, and how fast."""

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wtb_ray import errors, plan

BINDINGS = [{"retrieve": "bm25"}, {"retrieve": "dense"}, {}]


def test_every_cell_is_planned_once_and_numbered_in_order() -> None:
    names, cells = plan.expand(BINDINGS, range(7), 2, 1000)
    made = list(cells)
    assert names == ["retrieve=bm25", "retrieve=dense", "default"]
    assert [cell.ordinal for cell in made] == list(range(42))
    assert sorted((c.variant, c.case_ordinal, c.repetition) for c in made) == sorted(
        itertools.product(range(3), range(7), range(2))
    )


def test_cases_come_in_one_random_order_with_variants_side_by_side() -> None:
    made = list(plan.expand(BINDINGS, range(50), 2, 1000)[1])
    groups = [made[i : i + 6] for i in range(0, len(made), 6)]
    for group in groups:
        assert {cell.case_ordinal for cell in group} == {group[0].case_ordinal}
        assert [cell.repetition for cell in group] == [0, 0, 0, 1, 1, 1]
        assert [cell.variant for cell in group] == [0, 1, 2, 0, 1, 2]
    order = [group[0].case_ordinal for group in groups]
    assert sorted(order) == list(range(50))
    assert order != sorted(order)
    again = list(plan.expand(BINDINGS[:1], range(50), 1, 1000)[1])
    assert [cell.case_ordinal for cell in again] == order


@pytest.mark.parametrize(
    ("variants", "cases", "repetitions", "field", "reason"),
    [
        (0, 1, 1, "variant_matrix", "is empty"),
        (1, 0, 1, "test_cases", "is empty"),
        (1, 1, 0, "repetitions", "is 0"),
        (1, 1, -3, "repetitions", "is -3"),
    ],
)
def test_an_empty_side_is_named(
    variants: int, cases: int, repetitions: int, field: str, reason: str
) -> None:
    with pytest.raises(errors.EmptyMatrix) as e:
        plan.expand([{}] * variants, range(cases), repetitions, 1000)
    assert e.value.details == {"field": field, "reason": reason}


def test_too_many_cells_are_refused_with_the_count_before_any_is_made() -> None:
    with pytest.raises(errors.TooManyCells) as e:
        plan.expand(BINDINGS, range(10**9), 1000, 200_000)
    assert str(e.value).startswith(
        "3 variants x 1,000,000,000 cases x 1,000 repetitions are 3,000,000,000,000 cells;"
        " the limit is 200,000"
    )
    assert e.value.details["count"] == 3 * 10**12
    assert e.value.details["limit"] == 200_000
    assert e.value.details["field"] == "test_cases"
    assert len(list(plan.expand(BINDINGS, range(2), 1, 6)[1])) == 6


def test_planning_is_lazy_and_takes_less_than_0_3_ms_a_cell() -> None:
    started = time.perf_counter()
    _, cells = plan.expand([{"node": str(i)} for i in range(10)], range(2_000), 1, 20_000)
    first = next(cells)
    assert first.ordinal == 0
    made = 1 + sum(1 for _ in cells)
    assert (time.perf_counter() - started) / made < 0.3e-3


def test_names_are_readable() -> None:
    assert plan.variant_names(
        [
            {"retrieve": "bm25", "rerank": "overlap"},
            {},
            {"_workflow": "agentic", "answer": "short"},
            {"retrieve": "dense", "_name": "candidate"},
        ]
    ) == ["retrieve=bm25, rerank=overlap", "default", "workflow=agentic, answer=short", "candidate"]


@pytest.mark.parametrize(
    ("bindings", "field", "reason"),
    [
        ([{"a": "x"}, {}, {"a": "x"}], "variant_matrix.2", "is the same as variant_matrix.0"),
        ([{"a": "x", "b": "y"}, {"b": "y", "a": "x"}], "variant_matrix.1", "is the same as"),
        ([{"_name": "n"}, {"a": "x", "_name": "n"}], "variant_matrix.1", "has the name 'n' of"),
        ([{"a": "x"}, {"b": "y", "_name": "a=x"}], "variant_matrix.1", "has the name 'a=x' of"),
        ([{"_name": "  "}], "variant_matrix.0", "'_name' is up to 200 printable"),
        ([{"_name": "a\nb"}], "variant_matrix.0", "'_name' is up to 200 printable"),
    ],
)
def test_double_and_blank_names_are_refused(
    bindings: list[dict[str, str]], field: str, reason: str
) -> None:
    with pytest.raises(errors.InvalidRequest) as e:
        plan.expand(bindings, range(1), 1, 100)
    assert e.value.details["field"] == field
    assert e.value.details["reason"].startswith(reason)


def test_a_variant_may_run_against_itself_under_a_name() -> None:
    assert plan.variant_names([{"a": "x"}, {"a": "x", "_name": "again"}]) == ["a=x", "again"]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz")),
        min_size=1,
        unique_by=lambda binding: tuple(sorted(binding.items())),
    )
)
def test_different_bindings_have_different_names(bindings: list[dict[str, str]]) -> None:
    names = plan.variant_names(bindings)
    assert len(set(names)) == len(bindings)


def test_retries_wait_longer_up_to_a_limit() -> None:
    delays = [plan.retry_delay(attempt) for attempt in range(1, 60)]
    assert delays[0] == plan.FIRST_DELAY_S
    assert delays == sorted(delays)
    assert delays[-1] == plan.LONGEST_DELAY_S
    assert plan.retry_delay(0) == plan.FIRST_DELAY_S
