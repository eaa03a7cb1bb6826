"""Which variant is better, from cells and scores: pure, by Polars.

The unit is the case. Repetitions are averaged within their case first, then cases are averaged, so
that a case counts once however often it ran. Intervals are of this mean over cases; a metric is
binary when its values are 0 or 1 and no case has more than one counted cell.

A cell counts for a metric when it is DONE and has a value, or when a node failed and the policy is
`zero`: then it counts as 0 for every metric. Cells that failed for what is not the variant's doing
(infrastructure, overload, a scorer) are left out and named, as are EXCLUDED ones. PENDING, RUNNING, SCORING
and CANCELLED cells never count. Higher values are better.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from wtb_ray import errors, intervals
from wtb_ray.api import Leaderboard, LeaderboardRow, MetricSummary
from wtb_ray.bindings import NAME
from wtb_ray.model import Batch
from wtb_ray.states import TERMINAL_BATCH, TERMINAL_CELL, CellStatus

NOT_THE_VARIANT: Final = frozenset(
    {
        "infrastructure",
        errors.RateLimited.code,
        errors.TimedOut.code,
        errors.UnknownLimit.code,
        errors.ScorerFailed.code,
        errors.UnknownScorer.code,
        errors.Unavailable.code,
        errors.DatabaseUnavailable.code,
        errors.RunnerUnavailable.code,
        errors.Fenced.code,
        errors.ObjectCorrupt.code,
        errors.ConfigurationError.code,
    }
)
"""Codes of failed cells that say nothing about the variant, so that no policy makes them a 0."""


@dataclass(frozen=True)
class Table:
    """What counts, as arrays over [metric, variant, case] and over [metric]."""

    metrics: list[str]
    values: intervals.Floats
    """Mean of the counted cells of a case, NaN where none counts."""
    counts: NDArray[np.int64]
    """How many those are."""
    binary: intervals.Flags
    unit: intervals.Flags
    """Whether every value of the metric lies in [0, 1]."""


def summarise(
    cells: pl.DataFrame,
    scores: pl.DataFrame,
    batch: Batch,
    digest: str,
    declared: Mapping[str, Sequence[str]] | None = None,
) -> Leaderboard:
    """The variants in the order of the first metric's mean, best first; equal ones by name.

    Args:
        cells: One row a cell: `cell`, `variant` (name), `case`, `status`, `latency_ms`,
            `error` (code or null).
        scores: One row a score: `cell`, `scorer_digest`, `metric`, `value`.
        batch: What the cells belong to; scores of other scorers than its own do not count.
        digest: Of the results, for the leaderboard.
        declared: Metrics by scorer digest, where they are known: these are there even if no cell
            was scored.
    """
    values, names = _owned(scores, batch, declared or {})
    cells = _marked(cells, batch)
    table = _table(cells, values, names, batch)
    return Leaderboard(
        batch_id=batch.id,
        digest=digest,
        primary=names[0] if names else None,
        node_errors=batch.node_errors,
        rows=_ranked(_rows(cells, table, batch)),
        complete=batch.status in TERMINAL_BATCH,
        notes=_notes(cells, table, batch),
    )


def _owned(
    scores: pl.DataFrame, batch: Batch, declared: Mapping[str, Sequence[str]]
) -> tuple[pl.DataFrame, list[str]]:
    """The values of the batch's own scorers, and their metrics in the scorers' order.

    Where two scorers give the same metric the first one's counts.
    """
    kinds = scores.select("scorer_digest", "metric").unique(maintain_order=True).rows()
    owners: dict[str, str] = {}
    for scorer in batch.scorers:
        digest = scorer.digest()
        given = (metric for owner, metric in kinds if owner == digest)
        for metric in (*declared.get(digest, ()), *given):
            owners.setdefault(metric, digest)
    owned = pl.DataFrame(
        {"metric": list(owners), "scorer_digest": list(owners.values())},
        {"metric": pl.String, "scorer_digest": pl.String},
    )
    values = (
        scores.filter(pl.col("value").is_finite())
        .join(owned, on=["metric", "scorer_digest"], how="semi")
        .select("cell", "metric", "value")
    )
    return values, list(owners)


def _marked(cells: pl.DataFrame, batch: Batch) -> pl.DataFrame:
    """The cells with their places `v`, `c` in the table, and what they count as."""
    foreign = pl.col("error").is_in(list(NOT_THE_VARIANT)).fill_null(value=False)
    failed = pl.col("status") == CellStatus.FAILED
    places = {name: i for i, name in enumerate(batch.variants)}
    return cells.select(
        "cell",
        "status",
        "latency_ms",
        "error",
        v=pl.col("variant").replace_strict(places, return_dtype=pl.Int64),
        c=pl.col("case").cast(pl.Categorical).to_physical().rank("dense").cast(pl.Int64) - 1,
        done=pl.col("status") == CellStatus.DONE,
        failed=failed & ~foreign,
        foreign=failed & foreign,
    )


def _table(cells: pl.DataFrame, values: pl.DataFrame, names: list[str], batch: Batch) -> Table:
    shape = (len(names), len(batch.variants), cells["c"].n_unique())
    size = math.prod(shape[1:])
    places = pl.DataFrame({"metric": names}, {"metric": pl.String}).with_row_index("m")
    unit = pl.col("v") * shape[2] + pl.col("c")
    done = cells.filter("done").select("cell", unit=unit)
    counted = values.join(places, on="metric").join(done, on="cell")
    at = counted.select(pl.col("m") * size + pl.col("unit")).to_series().to_numpy()
    sums = np.bincount(at, counted["value"].to_numpy(), len(names) * size).reshape(shape)
    counts = np.bincount(at, minlength=len(names) * size).reshape(shape)
    if batch.node_errors == "zero":
        zeros = cells.filter("failed").select(unit).to_series().to_numpy()
        counts = counts + np.bincount(zeros, minlength=size).reshape(shape[1:])
    with np.errstate(invalid="ignore"):
        means = sums / counts
    binary, within = _ranges(counted, len(names))
    return Table(names, means, counts, binary & (counts <= 1).all(axis=(1, 2)), within)


def _ranges(counted: pl.DataFrame, metrics: int) -> tuple[intervals.Flags, intervals.Flags]:
    """For each metric whether all values are 0 or 1, and whether all lie in [0, 1]."""
    value = pl.col("value")
    kinds = counted.group_by("m").agg(
        binary=((value == 0) | (value == 1)).all(), unit=value.is_between(0, 1).all()
    )
    outside = (kinds.filter(~pl.col(kind))["m"].to_numpy() for kind in ("binary", "unit"))
    binary, unit = (np.isin(np.arange(metrics), places, invert=True) for places in outside)
    return binary, unit


def _rows(cells: pl.DataFrame, table: Table, batch: Batch) -> list[LeaderboardRow]:
    latency = pl.col("latency_ms").filter("done")
    counts = cells.group_by("v").agg(
        cells=pl.len(),
        done=pl.col("done").sum(),
        errors=pl.col("failed").sum(),
        excluded=(pl.col("foreign") | (pl.col("status") == CellStatus.EXCLUDED)).sum(),
        latency_p50_ms=latency.quantile(0.5, "linear"),
        latency_p95_ms=latency.quantile(0.95, "linear"),
    )
    everyone = pl.DataFrame({"v": range(len(batch.variants))}, {"v": pl.Int64})
    filled = everyone.join(counts, on="v", how="left").with_columns(
        pl.col("cells", "done", "errors", "excluded").fill_null(0)
    )
    summaries = _summaries(table)
    return [
        LeaderboardRow(
            rank=0,
            variant=batch.variants[i],
            binding={key: value for key, value in batch.bindings[i].items() if key != NAME},
            metrics=summaries[i],
            **found,
        )
        for i, found in enumerate(filled.sort("v").drop("v").iter_rows(named=True))
    ]


def _summaries(table: Table) -> list[list[MetricSummary]]:
    """For each variant its metrics, in the table's order."""
    metrics, variants, cases = table.values.shape
    flat = table.values.reshape(metrics * variants, cases)
    low, high = intervals.intervals(
        flat, np.repeat(table.binary, variants), np.repeat(table.unit, variants)
    )
    means = intervals.row_means(flat)
    units = np.count_nonzero(table.counts, axis=2).ravel()
    n = table.counts.sum(axis=2).ravel()
    return [
        [
            MetricSummary(
                metric=table.metrics[m],
                n=int(n[row]),
                cases=int(units[row]),
                mean=_number(means[row]),
                low=_number(low[row]),
                high=_number(high[row]),
            )
            for m in range(metrics)
            for row in [m * variants + v]
        ]
        for v in range(variants)
    ]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _ranked(rows: list[LeaderboardRow]) -> list[LeaderboardRow]:
    """In order, with ranks; equal means share a rank, and variants without one come last."""

    def mean(row: LeaderboardRow) -> float:
        found = row.metrics[0].mean if row.metrics else None
        return -np.inf if found is None else round(found, 12)

    rows = sorted(rows, key=lambda row: (-mean(row), row.variant))
    better = {value: 1 + sum(mean(other) > value for other in rows) for value in map(mean, rows)}
    return [row.model_copy(update={"rank": better[mean(row)]}) for row in rows]


def _notes(cells: pl.DataFrame, table: Table, batch: Batch) -> list[str]:
    """What a reader must know to read the numbers right."""
    status = pl.col("status")
    open_ = cells.filter(~status.is_in([str(one) for one in TERMINAL_CELL])).height
    cancelled = cells.filter(status == CellStatus.CANCELLED).height
    excluded = cells.filter(status == CellStatus.EXCLUDED).height
    reasons = cells.filter((status == CellStatus.EXCLUDED) & pl.col("error").is_not_null())["error"]
    why = f" ({', '.join(sorted(reasons.unique()))})" if reasons.len() else ""
    failed, foreign = cells.filter("failed").height, cells.filter("foreign")
    policy = "count as 0 for every metric" if batch.node_errors == "zero" else "are left out"
    causes = ", ".join(f"{n} {code}" for code, n in foreign["error"].value_counts(sort=True).rows())
    notes = {
        f"{_cells(open_)} of {cells.height} not ended yet": open_,
        f"{_cells(cancelled)} cancelled: left out": cancelled,
        f"{_cells(excluded)} excluded{why}: left out": excluded,
        f"{_cells(failed)} with a node error: {policy} (node_errors={batch.node_errors})": failed,
        f"{_cells(foreign.height)} failed through no fault of a variant ({causes}): left out": causes,
    }
    made = [note for note, applies in notes.items() if applies]
    for metric, counts in zip(table.metrics, table.counts.sum(axis=2), strict=True):
        made += _uneven(metric, counts, batch)
    return made + _unscored(cells, table, batch)


def _cells(n: int) -> str:
    return f"{n} cell{'' if n == 1 else 's'}"


def _uneven(metric: str, counts: NDArray[np.int64], batch: Batch) -> list[str]:
    least, most = int(np.argmin(counts)), int(np.argmax(counts))
    if counts[least] == counts[most]:
        return []
    return [
        f"{metric}: variants have different numbers of counted cells, from {counts[least]}"
        f" ({batch.variants[least]}) to {counts[most]} ({batch.variants[most]}):"
        " compare them with care"
    ]


def _unscored(cells: pl.DataFrame, table: Table, batch: Batch) -> list[str]:
    zeros = cells.filter("failed").height if batch.node_errors == "zero" else 0
    eligible = cells.filter("done").height + zeros
    missing = eligible - table.counts.sum(axis=(1, 2))
    return [
        f"{metric}: {_cells(int(n))} done without a value: left out"
        for metric, n in zip(table.metrics, missing, strict=True)
        if n
    ]
