"""The story of one execution or batch: who did what, when, and how long it took in between; pure."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from wtb_ray.api import TimelineEntry
from wtb_ray.events import EventRow
from wtb_ray.model import canonical

LONGEST_VALUE: Final = 80
WIDTHS: Final = {"start": 11, "gap": 12, "actor": 18, "type": 20, "execution": 25}
STEP_TYPES: Final = ("step.completed",)
"""Left out of a batch's story unless asked for: there are as many as all its executions have."""


def entries(
    rows: Iterable[EventRow], start: datetime | None = None, before: datetime | None = None
) -> Iterator[TimelineEntry]:
    """Entries of events in their order.

    Args:
        start: When the whole began; None takes the first event.
        before: When the event before the first of these was.
    """
    for row in rows:
        start, before = start or row.at, before or start or row.at
        yield TimelineEntry(
            cursor=row.cursor,
            at=row.at,
            since_start_s=(row.at - start).total_seconds(),
            gap_s=(row.at - before).total_seconds(),
            actor=row.actor,
            type=row.type,
            execution_id=row.execution_id,
            what=what(row),
        )
        before = row.at


def what(row: EventRow) -> str:
    """An event in words."""
    payload = row.payload
    if (fault := payload.get("error")) and isinstance(fault, dict) and "message" in fault:
        node = f"in {fault['node']}: " if fault.get("node") else ""
        rest = {k: v for k, v in payload.items() if k != "error"}
        return _joined(f"{node}{_short(fault['message'])} ({fault.get('code')})", _fields(rest))
    if row.type == "step.completed":
        done, following = _names(payload.get("nodes")), _names(payload.get("next_nodes"))
        ran = f"{done or 'no node'} in {float(payload.get('duration_ms') or 0):.0f} ms"
        return f"step {payload.get('step')}: {ran}" + (f", next {following}" if following else "")
    return _fields(payload)


def line(entry: TimelineEntry, *, with_execution: bool = False) -> str:
    """An entry on one line: since the start, since the entry before, time, who, what."""
    cells = [
        f"{entry.at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z",
        f"+{duration(entry.since_start_s)}".rjust(WIDTHS["start"]),
        f"(+{duration(entry.gap_s)})".rjust(WIDTHS["gap"]),
        entry.actor.ljust(WIDTHS["actor"]),
        entry.type.ljust(WIDTHS["type"]),
    ]
    if with_execution:
        cells.append((entry.execution_id or "-").ljust(WIDTHS["execution"]))
    return "  ".join([*cells, entry.what]).rstrip()


def duration(seconds: float) -> str:
    """A span for people: 12 ms, 3.40 s, 2 min 05 s, 3 h 07 min."""
    size = abs(seconds)
    if size < 1:
        return f"{seconds * 1000:.0f} ms"
    if size < 60:
        return f"{seconds:.2f} s"
    if size < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def _fields(payload: dict[str, Any]) -> str:
    shown = [f"{k}={_short(v)}" for k, v in payload.items() if v not in (None, "", [], {})]
    return " ".join(shown)


def _names(nodes: Any) -> str:
    return ", ".join(map(str, nodes)) if isinstance(nodes, list) else ""


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = " ".join((value if isinstance(value, str) else canonical(value)).split())
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)
