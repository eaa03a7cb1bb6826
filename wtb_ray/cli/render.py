"""Tables of what the bench answers; pure functions from models to what rich prints."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wtb_ray import api
from wtb_ray.cli.terminal import json_text
from wtb_ray.events import EventRow
from wtb_ray.model import Batch, Cost, Execution, Fault, ProjectVersion
from wtb_ray.states import TERMINAL_CELL, CellStatus

STYLES: Final = {
    "COMPLETED": "green",
    "DONE": "green",
    "RUNNING": "cyan",
    "SCORING": "cyan",
    "PAUSED": "yellow",
    "FAILED": "red",
    "CANCELLED": "dim",
    "EXCLUDED": "dim",
}
SHORT: Final = 12
"""Characters of a digest that are shown."""
LONG: Final = 240
"""Characters of a state's value that are shown."""
WIDE: Final = 110
"""Columns from which on nothing needs to be shortened."""


def number(value: float | None) -> str:
    """A score: three decimals, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def duration(ms: float | None) -> str:
    """A time span in the unit that reads best."""
    if ms is None:
        return "–"
    if ms < 1000:
        return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"
    seconds = ms / 1000
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def span(seconds: float) -> str:
    """A time span without fractions of seconds."""
    return duration(max(round(seconds), 1) * 1000).replace(".00 s", " s")


def many(count: int, thing: str) -> str:
    """`1 case`, `2 cases`."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def folded(variant: str, width: int) -> str:
    """The name of a variant, on several lines where the terminal is narrow."""
    return re.sub(r",\s*", ",\n", variant) if width < WIDE else variant


def moment(at: datetime | None) -> str:
    """Local date and time to the second."""
    return "–" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def status(value: str) -> Text:
    return Text(value, style=STYLES.get(value, ""))


def bound(binding: dict[str, str]) -> str:
    """A binding as it is typed: `node=variant,node=variant`."""
    return ",".join(f"{node}={variant}" for node, variant in binding.items()) or "as registered"


def counts(cells: dict[str, int]) -> Text:
    """Cells by status, in the order of a cell's life, without zeros."""
    parts = [
        Text(f"{cells[name]} {name.lower()}", style=STYLES.get(name, ""))
        for name in CellStatus
        if cells.get(name)
    ]
    return Text(", ").join(parts) if parts else Text("no cells")


def table(*columns: str, right: Iterable[str] = (), wrap: Iterable[str] = ()) -> Table:
    """A table with a line below its head and no other rules; only `wrap` columns may fold."""
    made = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        header_style="bold",
        show_edge=False,
    )
    right, wrap = set(right), set(wrap)
    for name in columns:
        made.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=name not in wrap,
            overflow="fold",
        )
    return made


def facts(rows: Iterable[tuple[str, RenderableType | None]]) -> Table:
    """Names and values below each other; rows without a value are left out."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        if value is not None and value != "":
            made.add_row(name, value)
    return made


def nothing(what: str) -> Text:
    return Text(f"no {what}", style="dim")


def more(page: "api.Page[api.Item]", option: str = "--after") -> Text:
    """How to get the next part of a list; empty at its end."""
    return Text(f"more: {option} {page.next}" if page.next else "", style="dim")


def projects(items: Sequence[ProjectVersion]) -> RenderableType:
    if not items:
        return nothing("projects; register one with `wtb project register`")
    columns = ["project", "version", "entry", "nodes", "variants", "registered"]
    made = table(*columns, right=["nodes"], wrap=["project", "entry", "variants", "registered"])
    for item in items:
        made.add_row(
            item.project if item.active else f"{item.project} (deactivated)",
            item.version[:SHORT],
            item.spec.entry,
            str(len(item.graph.nodes)),
            _variant_names(item),
            moment(item.created_at),
        )
    return made


def _variant_names(item: ProjectVersion) -> str:
    named = {node: len(variants) for node, variants in item.spec.variants.items()}
    if item.spec.workflow_variants:
        named["_workflow"] = len(item.spec.workflow_variants)
    return " ".join(f"{node}:{count}" for node, count in named.items()) or "–"


def project(item: ProjectVersion) -> RenderableType:
    edges = ", ".join(f"{source} → {target}" for source, target in item.graph.edges)
    about = facts(
        [
            ("project", item.project),
            ("status", None if item.active else Text("deactivated", style="yellow")),
            ("version", item.version),
            ("entry", item.spec.entry),
            ("about", item.spec.description),
            ("code", item.spec.bundle or "importable where the bench runs"),
            ("files", _files(item)),
            ("state", ", ".join(item.graph.channels)),
            ("edges", edges),
            ("graphs", bound(item.spec.workflow_variants) if item.spec.workflow_variants else None),
            ("registered", moment(item.created_at)),
        ]
    )
    views = [
        api.NodeView(**{**node.model_dump(), "variants": item.spec.variants.get(node.name, {})})
        for node in item.graph.nodes
    ]
    return Group(about, Text(), nodes(views))


def _files(item: ProjectVersion) -> str | None:
    """Which files belong to checkpoints; nothing for a project that keeps none."""
    config = item.spec.file_tracking
    if config is None or not config.enabled:
        return None
    return (
        f"{', '.join(config.tracked_paths) or 'all of the workspace'}, kept on {config.commit_on}"
    )


def nodes(items: Sequence[api.NodeView]) -> RenderableType:
    if not items:
        return nothing("nodes")
    columns = ["node", "variant", "implementation", "parameters"]
    made = table(*columns, wrap=["implementation", "parameters"])
    for node in items:
        kind = "subgraph" if node.subgraph else "async" if node.is_async else "sync"
        made.add_row(node.name, Text(kind, style="dim"), node.implementation, "")
        for name, variant in node.variants.items():
            made.add_row(
                "",
                name,
                variant.implementation or Text("the same", style="dim"),
                json_text(variant.params, indent=False) if variant.params else "",
            )
    return made


def execution(item: Execution) -> RenderableType:
    head = "–" if item.head_step is None else str(max(item.head_step, 0))
    shown = facts(
        [
            ("execution", item.id),
            ("project", f"{item.project} {item.version[:SHORT]}"),
            ("variants", bound(item.binding)),
            ("status", _with_reason(item.status, item.reason)),
            ("step", head),
            ("case", item.case_id),
            ("latency", duration(item.latency_ms) if item.latency_ms is not None else None),
            ("node runs", str(item.node_runs) if item.node_runs else None),
            ("created", moment(item.created_at)),
        ]
    )
    return Group(shown, fault(item.error)) if item.error else shown


def _with_reason(value: str, reason: str | None) -> Text:
    shown = status(value)
    return shown.append(f" ({reason})", style="dim") if reason else shown


def fault(error: Fault) -> RenderableType:
    """Why something failed: one line, and below it the traceback as far as it is known."""
    place = f" in node {error.node}" if error.node else ""
    attempt = f", attempt {error.attempt}" if error.attempt > 1 else ""
    line = Text(f"{error.type}{place}{attempt}: {error.message} ({error.code})", style="red")
    if not error.traceback:
        return line
    return Group(line, Text(error.traceback.rstrip(), style="dim"))


def state(view: api.StateView) -> RenderableType:
    """The values of a state, long ones only with their beginning."""
    if not view.values:
        return nothing("values in the state")
    shown = [
        (name, _cut(json_text(value, indent=False), LONG)) for name, value in view.values.items()
    ]
    cut = any(text.endswith("…") for _, text in shown)
    return Group(facts(shown), Text("\n… --json shows all of it", "dim")) if cut else facts(shown)


def batch(item: Batch, progress: api.Progress | None = None) -> RenderableType:
    sides = [
        (len(item.variants), "variant"),
        (item.cases, "case"),
        (item.repetitions, "repetition"),
    ]
    matrix = " × ".join(many(count, thing) for count, thing in sides)
    finished = sum(item.counts.get(name, 0) for name in TERMINAL_CELL)
    pace = None
    if progress and progress.rate and finished < item.cells:
        pace = f"{progress.rate:.1f} cells/s, {_left(progress)} to go"
    return facts(
        [
            ("batch", item.id),
            ("project", f"{item.project} {item.version[:SHORT]}"),
            ("status", _with_reason(item.status, item.reason)),
            ("matrix", f"{matrix} = {many(item.cells, 'cell')}"),
            ("finished", f"{finished} of {item.cells}"),
            ("cells", counts(item.counts)),
            ("pace", pace),
            ("cost", cost(item.cost) if item.cost else None),
            ("spent", _spent(item)),
            ("budget", _budget(item)),
            ("scorers", ", ".join(scorer.name for scorer in item.scorers)),
            ("created", moment(item.created_at)),
            ("ended", moment(item.ended_at) if item.ended_at else None),
        ]
    )


def cost(item: Cost) -> str:
    """`14 node runs in 2.10 s, tokens 812, cost 0.0031`."""
    runs = f"{many(item.node_runs, 'node run')} in {duration(item.duration_ms)}"
    return ", ".join([runs, *(f"{key} {amount:,.6g}" for key, amount in item.usage.items())])


def _spent(item: Batch) -> str | None:
    """What was really spent, and how much less that is than the cells cost together."""
    if item.cost is None or item.cost_incurred is None:
        return None
    whole, spent = item.cost.node_runs, item.cost_incurred.node_runs
    saved = f" ({100 * (whole - spent) / whole:.0f} % less by sharing)" if spent < whole else ""
    return f"{cost(item.cost_incurred)}{saved}"


def _budget(item: Batch) -> str | None:
    given = {} if item.budget is None else item.budget.model_dump(exclude_none=True)
    return ", ".join(f"{name} {amount:g}" for name, amount in given.items()) or None


def _left(progress: api.Progress) -> str:
    """The remaining time; as a range where it is known how sure it is."""
    low, high = progress.remaining_low_s, progress.remaining_high_s
    if low is None or high is None:
        return f"about {span(progress.remaining_s or 0)}"
    return f"{span(low)} to {span(high)}"


def batches(items: Sequence[Batch]) -> RenderableType:
    if not items:
        return nothing("batches")
    columns = ["batch", "project", "status", "variants", "cases", "cells", "created"]
    made = table(*columns, right=["variants", "cases"], wrap=["project", "cells", "created"])
    for item in items:
        made.add_row(
            item.id,
            item.project,
            status(item.status),
            str(len(item.variants)),
            str(item.cases),
            counts(item.counts),
            moment(item.created_at),
        )
    return made


def results(items: Sequence[api.CellResult], width: int = WIDE) -> RenderableType:
    if not items:
        return nothing("results")
    metrics = list(dict.fromkeys(name for item in items for name in item.scores))
    columns = ["cell", "variant", "case", "rep", "status", *metrics, "latency", "execution"]
    right = ["cell", "rep", *metrics, "latency"]
    made = table(*columns, "error", right=right, wrap=["case", "execution", "error"])
    for item in items:
        made.add_row(
            str(item.id),
            folded(item.variant, width),
            item.case_id,
            str(item.repetition),
            status(item.status),
            *(number(item.scores.get(name)) for name in metrics),
            duration(item.latency_ms),
            item.execution_id or "–",
            _error_of(item),
        )
    return made


def _error_of(item: api.CellResult) -> Text:
    if not item.error:
        return Text()
    node, message = item.error.get("node"), str(item.error.get("message", ""))
    line = " ".join(message.split())
    return Text(f"{node}: {line}" if node else line, style="red")


def event(row: EventRow) -> Text:
    """One event on one line: time, what, of what, and its fields."""
    subject = row.execution_id or row.batch_id or row.project or row.actor
    line = Text.assemble(
        (row.at.astimezone().strftime("%H:%M:%S.%f")[:-3], "dim"),
        "  ",
        (f"{row.type:<20}", _event_style(row.type)),
        "  ",
        subject,
    )
    fields = [f"{name}={flat(value)}" for name, value in row.payload.items() if value is not None]
    return line.append("  " + " ".join(fields), style="dim") if fields else line


def _event_style(kind: str) -> str:
    outcome = kind.rpartition(".")[2]
    if outcome in ("failed", "lost"):
        return "red"
    return "green" if kind in ("execution.completed", "batch.completed") else ""


def flat(value: object) -> str:
    """A value on one line, cut off where it gets long."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return _cut(value if isinstance(value, str) else json_text(value, indent=False), 80)


def _cut(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
