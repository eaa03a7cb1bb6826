"""Leaderboards: what counts, how it is averaged, how sure it is, and what the notes say."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from wtb_ray import intervals
from wtb_ray.api import Leaderboard, LeaderboardRow, MetricSummary
from wtb_ray.leaderboard import summarise
from wtb_ray.model import Batch, ScorerSpec

EXACT, F1 = ScorerSpec(name="exact"), ScorerSpec(name="token_f1")
SPECS = {"exact": EXACT, "token_f1": F1}

Cell = tuple[str, str, Any]
"""Variant, case, and a value, a dict of values by metric, a status or an error code."""


def board(
    cells: Iterable[Cell],
    variants: str = "ab",
    *,
    scorers: tuple[ScorerSpec, ...] = (EXACT,),
    node_errors: str = "zero",
    status: str = "COMPLETED",
    **more: Any,
) -> Leaderboard:
    rows, scores = [], []
    for i, (variant, case, what) in enumerate(cells):
        state, error = "DONE", None
        if isinstance(what, str):
            state, error = (what, None) if what.isupper() else ("FAILED", what)
        rows.append((i, variant, case, 0, state, 100.0 * (i + 1), error))
        values = what if isinstance(what, dict) else {"exact": what}
        if state == "DONE":
            scores += [(i, SPECS[m].digest(), m, v) for m, v in values.items()]
    batch = batch_of(variants, scorers, status=status, node_errors=node_errors)
    return summarise(frame(rows), score_frame(scores), batch, "digest", **more)


def batch_of(variants: str, scorers: tuple[ScorerSpec, ...], **more: Any) -> Batch:
    return Batch(
        id="b1",
        project="p",
        version="v",
        variants=tuple(variants),
        bindings=tuple({"node": name, "_name": name} for name in variants),
        scorers=scorers,
        repetitions=1,
        cases=1,
        cells=1,
        counts={},
        created_at=datetime.now(UTC),
        **more,
    )


def frame(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    names = ["cell", "variant", "case", "repetition", "status", "latency_ms", "error"]
    kinds = [pl.Int64, pl.String, pl.String, pl.Int32, pl.String, pl.Float64, pl.String]
    return pl.DataFrame(rows, dict(zip(names, kinds, strict=True)), orient="row")


def score_frame(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    names = ["cell", "scorer_digest", "metric", "value"]
    kinds = [pl.Int64, pl.String, pl.String, pl.Float64]
    return pl.DataFrame(rows, dict(zip(names, kinds, strict=True)), orient="row")


def row(made: Leaderboard, variant: str) -> LeaderboardRow:
    return next(row for row in made.rows if row.variant == variant)


def summary(made: Leaderboard, variant: str, metric: str = "exact") -> MetricSummary:
    return next(one for one in row(made, variant).metrics if one.metric == metric)


def test_repetitions_are_averaged_within_their_case_first() -> None:
    made = board([("a", "c1", 1), ("a", "c1", 1), ("a", "c1", 0), ("a", "c2", 0)], "a")
    found = summary(made, "a")
    assert (found.n, found.cases) == (4, 2)
    assert found.mean == pytest.approx((2 / 3 + 0) / 2)


def test_variants_are_ranked_by_the_first_scorers_metric() -> None:
    cells = [
        ("a", "c1", {"token_f1": 0.9, "exact": 0}),
        ("b", "c1", {"token_f1": 0.1, "exact": 1}),
    ]
    made = board(cells, scorers=(EXACT, F1))
    assert made.primary == "exact"
    assert [(one.rank, one.variant) for one in made.rows] == [(1, "b"), (2, "a")]
    assert [one.metric for one in made.rows[0].metrics] == ["exact", "token_f1"]
    made = board(cells, scorers=(F1, EXACT))
    assert made.primary == "token_f1"
    assert [one.variant for one in made.rows] == ["a", "b"]


def test_equal_means_share_a_rank_in_the_order_of_names_and_none_comes_last() -> None:
    cells = [("d", "c1", 0.3), ("c", "c1", 0.1), ("c", "c2", 0.5), ("d", "c2", 0.3), ("a", "c1", 0)]
    made = board(cells, "bdca")
    assert [(one.rank, one.variant) for one in made.rows] == [
        (1, "c"),
        (1, "d"),
        (3, "a"),
        (4, "b"),
    ]
    assert summary(made, "b") == MetricSummary(
        metric="exact", n=0, cases=0, mean=None, low=None, high=None
    )
    assert row(made, "b").latency_p50_ms is None


ERRORS: list[Cell] = [
    ("a", "c1", 1),
    ("a", "c2", "node_failed"),
    ("a", "c3", "runner_died"),
    ("a", "c4", "infrastructure"),
    ("b", "c1", 1),
    ("b", "c2", 1),
    ("b", "c3", "EXCLUDED"),
    ("b", "c4", "scorer_failed"),
]


def test_policy_zero_counts_node_errors_as_0() -> None:
    made = board(ERRORS)
    found = summary(made, "a")
    assert (found.n, found.cases) == (3, 3)
    assert found.mean == pytest.approx(1 / 3)
    assert summary(made, "b").mean == 1
    assert (row(made, "a").errors, row(made, "a").excluded, row(made, "a").done) == (2, 1, 1)
    assert (row(made, "b").errors, row(made, "b").excluded, row(made, "b").done) == (0, 2, 2)
    assert made.notes == [
        "1 cell excluded: left out",
        "2 cells with a node error: count as 0 for every metric (node_errors=zero)",
        "2 cells failed through no fault of a variant (1 infrastructure, 1 scorer_failed): left out",
        "exact: variants have different numbers of counted cells, from 2 (b) to 3 (a):"
        " compare them with care",
    ]


def test_policy_exclude_leaves_node_errors_out_and_says_so() -> None:
    made = board(ERRORS, node_errors="exclude")
    found = summary(made, "a")
    assert (found.n, found.cases, found.mean) == (1, 1, 1)
    assert row(made, "a").errors == 2
    assert "2 cells with a node error: are left out (node_errors=exclude)" in made.notes


def test_policy_zero_counts_for_every_metric() -> None:
    cells = [("a", "c1", {"exact": 1, "token_f1": 0.8}), ("a", "c2", "node_failed")]
    made = board(cells, "a", scorers=(EXACT, F1))
    assert summary(made, "a", "exact").mean == 0.5
    assert summary(made, "a", "token_f1").mean == pytest.approx(0.4)


def test_a_batch_in_which_everything_failed_still_has_its_metrics() -> None:
    made = board([("a", "c1", "node_failed")], "a", declared={EXACT.digest(): ["exact"]})
    assert made.primary == "exact"
    found = summary(made, "a")
    assert (found.n, found.mean, found.low) == (1, 0, 0)
    assert found.high == pytest.approx(0.793, abs=1e-3)


def test_cells_that_have_not_ended_or_were_cancelled_never_count() -> None:
    open_ = ["PENDING", "RUNNING", "SCORING", "CANCELLED"]
    made = board([("a", "c0", 1), *(("a", f"c{i}", s) for i, s in enumerate(open_, 1))], "a")
    assert (summary(made, "a").n, summary(made, "a").mean) == (1, 1)
    assert (row(made, "a").cells, row(made, "a").done, row(made, "a").errors) == (5, 1, 0)
    assert made.notes == ["3 cells of 5 not ended yet", "1 cell cancelled: left out"]


def test_latency_is_of_done_cells() -> None:
    made = board([("a", f"c{i}", 1) for i in range(9)] + [("a", "c9", "node_failed")], "a")
    assert row(made, "a").latency_p50_ms == 500
    assert row(made, "a").latency_p95_ms == pytest.approx(860)


def test_values_that_are_null_or_of_other_scorers_do_not_count() -> None:
    made = board([("a", "c1", 1), ("a", "c2", None), ("b", "c1", 1), ("b", "c2", 0)])
    assert (summary(made, "a").n, summary(made, "a").mean) == (1, 1)
    assert "exact: 1 cell done without a value: left out" in made.notes
    made = board([("a", "c1", {"exact": 1, "token_f1": 0.5})], "a", scorers=(EXACT,))
    assert [one.metric for one in row(made, "a").metrics] == ["exact"]


def test_an_empty_batch_and_one_without_scorers_have_leaderboards() -> None:
    made = board([], "ab")
    assert (made.primary, made.notes) == (None, [])
    assert [(one.rank, one.variant, one.cells) for one in made.rows] == [(1, "a", 0), (1, "b", 0)]
    made = board([("a", "c1", {})], "a", scorers=())
    assert (made.primary, row(made, "a").done, row(made, "a").metrics) == (None, 1, [])


def test_rows_carry_the_binding_without_its_name_and_whether_the_batch_ended() -> None:
    made = board([("a", "c1", 1)], "a")
    assert (made.rows[0].binding, made.complete, made.digest) == ({"node": "a"}, True, "digest")
    assert board([("a", "c1", 1)], "a", status="RUNNING").complete is False


def test_a_binary_metric_with_one_repetition_gets_wilsons_interval() -> None:
    made = board([("a", f"c{i}", i < 8) for i in range(10)], "a")
    found = summary(made, "a")
    expected = stats.binomtest(8, 10).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_with_repetitions_the_interval_is_over_cases() -> None:
    per_case = np.array([0.0, 0.5, 1.0, 1.0])
    cells = [(f"c{i}", value) for i, m in enumerate(per_case) for value in (m > 0, m == 1)]
    found = summary(board([("a", case, value) for case, value in cells], "a"), "a")
    half = stats.t.ppf(0.975, 3) * per_case.std(ddof=1) / 2
    assert found.mean == pytest.approx(0.625)
    assert found.low == pytest.approx(max(0.625 - half, 0))
    assert found.high == 1


def one_row(values: Iterable[float], *, binary: bool = False) -> tuple[float, float]:
    data = np.array([list(values)], dtype=np.float64)
    inside = bool(np.nanmin(data) >= 0 and np.nanmax(data) <= 1)
    low, high = intervals.intervals(data, np.array([binary]), np.array([inside]))
    return float(low[0]), float(high[0])


def test_few_cases_get_a_t_interval() -> None:
    values = np.random.default_rng(1).normal(10, 2, 12)
    expected = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert one_row(values) == pytest.approx(expected)


def test_many_cases_get_a_t_interval_too() -> None:
    values = np.random.default_rng(1).normal(10, 2, 5_001)
    expected = stats.t.interval(0.95, 5_000, values.mean(), stats.sem(values))
    assert one_row(values) == pytest.approx(expected)


def test_the_bootstrap_is_bca() -> None:
    values = np.random.default_rng(2).gamma(0.5, 1.0, 60)
    reference = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(3)
    ).confidence_interval
    assert one_row(values) == pytest.approx((reference.low, reference.high), rel=0.03)
    normal = stats.t.interval(0.95, 59, values.mean(), stats.sem(values))
    assert one_row(values)[1] > normal[1] + 0.01


def test_missing_cases_are_no_zeros() -> None:
    values = np.random.default_rng(4).uniform(0.4, 0.8, 80)
    gaps = np.where(np.arange(80) % 2, values, np.nan)
    alone, among = one_row(values[1::2]), one_row(gaps)
    both = np.array([values, gaps])
    low, high = intervals.intervals(both, np.zeros(2, np.bool_), np.ones(2, np.bool_))
    assert among == pytest.approx(alone, abs=0.01)
    assert (low[1], high[1]) == pytest.approx(alone, abs=0.02)


def test_equal_results_give_equal_intervals() -> None:
    values = np.random.default_rng(5).uniform(size=100)
    assert one_row(values) == one_row(values)


@pytest.mark.parametrize(
    ("values", "known"),
    [
        ([0.5] * 20, False),
        ([7.0] * 50, False),
        ([1.0] * 20, True),
        ([0.0] * 200, True),
        ([0.5], False),
    ],
)
def test_equal_values_do_not_pretend_to_be_certain(values: list[float], known: bool) -> None:
    low, high = one_row(values)
    if known:
        assert high - low > 0.01
    else:
        assert np.isnan([low, high]).all()


@pytest.mark.parametrize(("n", "binary"), [(8, False), (20, True), (40, False), (150, True)])
def test_intervals_cover_the_true_mean_19_times_out_of_20(n: int, binary: bool) -> None:
    rng = np.random.default_rng(6)
    if binary:
        truth, samples = 0.7, (rng.random((2_000, n)) < 0.7).astype(np.float64)
    else:
        truth, samples = 4 / 6, rng.beta(4, 2, (2_000, n))
    flags = np.full(len(samples), binary)
    low, high = intervals.intervals(samples, flags, np.ones_like(flags))
    assert np.mean((low <= truth) & (truth <= high)) == pytest.approx(0.95, abs=0.025)


def test_a_million_scores_take_less_than_two_seconds() -> None:
    variants, cases, repetitions = "abcdefghij", 2_500, 20
    n = len(variants) * cases * repetitions
    cells, rng = np.arange(n), np.random.default_rng(7)
    frame_ = pl.DataFrame(
        {
            "cell": cells,
            "variant": pl.Series(list(variants)).gather(cells % len(variants)),
            "case": pl.Series([f"case-{i:04}" for i in range(cases)]).gather(cells // 10 % cases),
            "status": pl.Series(["DONE", "FAILED"]).gather((rng.random(n) < 0.01).astype(int)),
            "latency_ms": rng.gamma(2, 100, n),
        }
    ).with_columns(error=pl.lit("node_failed"))
    scores = pl.DataFrame(
        {
            "cell": np.repeat(cells, 2),
            "scorer_digest": pl.Series([EXACT.digest(), F1.digest()] * n),
            "metric": pl.Series(["exact", "token_f1"] * n),
            "value": np.column_stack([rng.random(n) < 0.6, rng.beta(4, 2, n)]).ravel(),
        }
    )
    batch = batch_of(variants, (EXACT, F1), status="COMPLETED", node_errors="zero")
    started = time.process_time()  # other processes on the machine do not make it slow
    made = summarise(frame_, scores, batch, "digest")
    assert time.process_time() - started < 2
    assert sum(one.metrics[0].n for one in made.rows) == n
