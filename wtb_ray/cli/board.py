"""The leaderboard as a table, and its first metric as bars with their intervals."""

from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wtb_ray.api import Leaderboard, LeaderboardRow, MetricSummary
from wtb_ray.cli.render import WIDE, duration, folded, many, nothing, number, table

LONGEST_BAR: Final = 44
SHORTEST_BAR: Final = 10
LONGEST_NAME: Final = 48


def leaderboard(board: Leaderboard, width: int = WIDE) -> RenderableType:
    """Variants in rank order with every metric, errors and latency.

    A narrow table leaves out the intervals of all metrics but the first.
    """
    if not board.rows:
        return nothing("variants on the leaderboard")
    metrics = _metrics(board)
    columns = ["#", "variant", *metrics, "errors", "p50", "p95"]
    made = table(*columns, right=["#", "errors", "p50", "p95"])
    for row in board.rows:
        found = {summary.metric: summary for summary in row.metrics}
        made.add_row(
            str(row.rank),
            Text(folded(row.variant, width), style="bold" if row.rank == 1 else ""),
            *(
                _summary(found.get(name), interval=name == board.primary or width >= WIDE)
                for name in metrics
            ),
            _errors(row),
            duration(row.latency_p50_ms),
            duration(row.latency_p95_ms),
        )
    return Group(made, Text(), *(Text(line, style="dim") for line in _footnotes(board)))


def _metrics(board: Leaderboard) -> list[str]:
    names = dict.fromkeys(summary.metric for row in board.rows for summary in row.metrics)
    return sorted(names, key=lambda name: name != board.primary)


def _summary(summary: MetricSummary | None, *, interval: bool) -> Text:
    if summary is None or summary.mean is None:
        return Text("–")
    shown = Text(number(summary.mean))
    if interval and summary.low is not None:
        shown.append(f" [{number(summary.low)}, {number(summary.high)}]", style="dim")
    return shown


def _errors(row: LeaderboardRow) -> Text:
    excluded = f" (+{row.excluded} excluded)" if row.excluded else ""
    return Text(f"{row.errors}{excluded}", style="red" if row.errors else "")


def _footnotes(board: Leaderboard) -> list[str]:
    cells = sum(row.cells for row in board.rows)
    cases = max((summary.cases for row in board.rows for summary in row.metrics), default=0)
    scored = f"{many(cases, 'case')} a variant; mean [95 % interval] over cases"
    lines = [f"{many(cells, 'cell')}, {scored if cases else 'none with a score'}"]
    if not board.complete:
        lines.append("the batch has not ended: these numbers will change")
    return lines + board.notes


def plot(board: Leaderboard, width: int = WIDE, *, unicode: bool = True) -> RenderableType:
    """The primary metric as one bar a variant, its 95 % interval drawn over the bar's end.

    Empty where there is nothing to draw.
    """
    rows = [(row, _primary(board, row)) for row in board.rows]
    shown = [(row, summary) for row, summary in rows if summary and summary.mean is not None]
    if not shown or board.primary is None:
        return Group()
    low, high = _scale([summary for _, summary in shown])
    names = min(max(len(row.variant) for row, _ in shown), LONGEST_NAME)
    length = max(min(width - names - 12, LONGEST_BAR), SHORTEST_BAR)
    made = Table.grid(padding=(0, 2))
    made.add_column(no_wrap=True, overflow="ellipsis", max_width=LONGEST_NAME)
    made.add_column(no_wrap=True)
    made.add_column(no_wrap=True, justify="right")
    for row, summary in shown:
        made.add_row(row.variant, _bar(summary, low, high, length, unicode), number(summary.mean))
    made.add_row("", Text(_axis(low, high, length), style="dim"), "")
    return Group(Text(board.primary, style="bold"), made)


def _primary(board: Leaderboard, row: LeaderboardRow) -> MetricSummary | None:
    return next((summary for summary in row.metrics if summary.metric == board.primary), None)


def _scale(summaries: list[MetricSummary]) -> tuple[float, float]:
    """From 0 to 1 where all values lie there; else from the least (or 0) to the most."""
    values = [
        value
        for summary in summaries
        for value in (summary.low, summary.mean, summary.high)
        if value is not None
    ]
    low, high = min(0.0, *values), max(values)
    if low == 0 and high <= 1:
        high = 1.0
    return low, high if high > low else low + 1


def _bar(summary: MetricSummary, low: float, high: float, width: int, unicode: bool) -> Text:
    full, spread, mean = ("█", "░", "┃") if unicode else ("#", "-", "|")

    def column(value: float | None) -> int:
        place = summary.mean if value is None else value
        return round(((place or 0.0) - low) / (high - low) * (width - 1))

    start, middle, end = column(summary.low), column(summary.mean), column(summary.high)
    return Text.assemble(
        (full * min(start, middle), "cyan"),
        (spread * max(middle - start, 0), "cyan"),
        (mean, "bold"),
        (spread * max(end - middle, 0), "cyan"),
    )


def _axis(low: float, high: float, width: int) -> str:
    left, right = f"{low:g}", f"{high:g}"
    return left + " " * max(width - len(left) - len(right), 1) + right
