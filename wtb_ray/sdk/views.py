"""What the SDK gives back: an execution with its state, and how things look in a notebook."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

from wtb_ray import api, model
from wtb_ray.states import TERMINAL_BATCH, BatchStatus, ExecutionStatus


@dataclass(frozen=True)
class Execution:
    """An execution and its state, as they were when this was read."""

    info: model.Execution
    view: api.StateView

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def status(self) -> ExecutionStatus:
        return self.info.status

    @property
    def state(self) -> dict[str, Any]:
        """The values of the graph's channels at the newest checkpoint."""
        return self.view.values

    @property
    def reason(self) -> str | None:
        """Why it stands as it does: what it paused for, or what it waits for."""
        return self.info.reason

    @property
    def environment(self) -> str | None:
        """Digest of what it runs in; `environment(digest)` of the bench says what is installed."""
        return self.info.environment

    @property
    def error(self) -> model.Fault | None:
        """Why it failed, if it did."""
        return self.info.error

    @property
    def next_nodes(self) -> list[str]:
        """What would run next; empty at the end."""
        return self.view.next_nodes

    @property
    def interrupts(self) -> list[dict[str, Any]]:
        """What it asks, if it waits for answers."""
        return self.view.interrupts

    def __repr__(self) -> str:
        return f"<Execution {self.id} {self.status}>"

    def _repr_html_(self) -> str:
        error = self.error
        facts = {
            "project": self.info.project,
            "variants": _binding(self.info.binding),
            "steps": self.info.head_step,
            "node runs": self.info.node_runs,
            "latency": _ms(self.info.latency_ms),
            "reason": self.reason,
            "next": ", ".join(self.next_nodes),
            "error": f"{error.type} in {error.node or 'graph'}: {error.message}" if error else None,
        }
        shown = [(name, value) for name, value in facts.items() if value not in (None, "")]
        state = [(name, _short(value)) for name, value in self.state.items()]
        title = f"Execution {self.id}: {self.status}"
        return _table(title, (), shown) + _table("State", ("channel", "value"), state)


class BatchView:
    """A batch as it was when it was last read."""

    def __init__(self, info: model.Batch) -> None:
        self.info = info

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def status(self) -> BatchStatus:
        return self.info.status

    @property
    def ended(self) -> bool:
        return self.info.status in TERMINAL_BATCH

    @property
    def cost(self) -> model.Cost:
        """The sums over its cells, each with the whole cost of its path."""
        return self.info.cost or model.Cost()

    @property
    def cost_incurred(self) -> model.Cost:
        """What was really spent, up to when each execution was given back or ended."""
        return self.info.cost_incurred or model.Cost()

    def __repr__(self) -> str:
        return f"<Batch {self.id} {self.status}, {self.info.cells} cells>"


def batch_html(batch: model.Batch, board: api.Leaderboard | None) -> str:
    """A batch with its counts and, once it is computed, its leaderboard."""
    counts = ", ".join(f"{n} {status.lower()}" for status, n in batch.counts.items() if n)
    title = f"Batch {batch.id} of {batch.project}: {batch.status}, {batch.cells} cells ({counts})"
    if batch.cost is not None and batch.cost_incurred is not None:
        spent, whole = batch.cost_incurred.node_runs, batch.cost.node_runs
        title += f", {spent} node runs for cells that cost {whole}"
    if board is None:
        bindings = zip(batch.variants, batch.bindings, strict=True)
        return _table(title, ("variant", "binding"), [(v, _binding(b)) for v, b in bindings])
    metrics = list(dict.fromkeys(m.metric for row in board.rows for m in row.metrics))
    head = ("rank", "variant", *metrics, "errors", "p50", "p95")
    rows = [
        (
            row.rank,
            row.variant,
            *(_mean(row, metric) for metric in metrics),
            f"{row.errors}/{row.cells}",
            _ms(row.latency_p50_ms),
            _ms(row.latency_p95_ms),
        )
        for row in board.rows
    ]
    notes = "".join(f"<p>{escape(note)}</p>" for note in board.notes)
    return _table(title, head, rows) + notes


def _mean(row: api.LeaderboardRow, metric: str) -> str:
    found = next((m for m in row.metrics if m.metric == metric), None)
    if found is None or found.mean is None:
        return ""
    if found.low is None or found.high is None:
        return f"{found.mean:.3f}"
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _binding(binding: dict[str, str]) -> str:
    return ", ".join(f"{node}={variant}" for node, variant in binding.items())


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f} ms"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}…"


def _table(title: str, head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    header = f"<thead><tr>{top}</tr></thead>" if top else ""
    return f"<table><caption>{escape(title)}</caption>{header}<tbody>{body}</tbody></table>"
