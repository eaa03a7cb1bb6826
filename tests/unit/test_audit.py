"""Timelines, reports of several parts, times and names: the audit without anything around it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer

from wtb_ray import timeline
from wtb_ray.api import AuditProblem, AuditReport
from wtb_ray.cli.audit import moment
from wtb_ray.events import EventRow
from wtb_ray.sdk import audit, identity
from wtb_ray.seals import Place, index, records

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


def row(
    number: int, after_s: float, type: str, actor: str = "http:ada", **payload: Any
) -> EventRow:
    return EventRow(
        cursor=f"7.{number}",
        at=START + timedelta(seconds=after_s),
        type=type,
        project="p",
        execution_id="e1",
        batch_id=None,
        actor=actor,
        payload=payload,
    )


STORY = [
    row(1, 0, "execution.created", binding={"a": "fast"}, version="v"),
    row(2, 0.25, "execution.started", "r1", owner="r1", epoch=1, attempt=1),
    row(
        3, 65, "step.completed", "r1", step=1, nodes=["a"], next_nodes=["b", "c"], duration_ms=64e3
    ),
    row(4, 7265, "execution.failed", "r1", error={"code": "c", "message": "no\n way", "node": "b"}),
]


def test_a_timeline_is_read_line_by_line() -> None:
    lines = [" ".join(timeline.line(e).split()) for e in timeline.entries(STORY)]
    assert lines == [
        '2026-01-01 12:00:00.000Z +0 ms (+0 ms) http:ada execution.created binding={"a":"fast"} version=v',
        "2026-01-01 12:00:00.250Z +250 ms (+250 ms) r1 execution.started owner=r1 epoch=1 attempt=1",
        "2026-01-01 12:01:05.000Z +1 min 05 s (+1 min 04 s) r1 step.completed"
        " step 1: a in 64000 ms, next b, c",
        "2026-01-01 14:01:05.000Z +2 h 01 min (+2 h 00 min) r1 execution.failed in b: no way (c)",
    ]


def test_the_rest_of_a_timeline_goes_on_counting() -> None:
    whole = list(timeline.entries(STORY))
    assert list(timeline.entries(STORY[2:], START, STORY[1].at)) == whole[2:]


def report(first: int, seals: int, following: int | None, *problems: int) -> AuditReport:
    return AuditReport(
        intact=not problems,
        first=first,
        seals=seals,
        events=seals * 10,
        problem_count=len(problems),
        problems=[AuditProblem(kind="seal_changed", message=f"{n}", seal=n) for n in problems],
        head=f"{first + seals - 1}:x",
        unsealed=3,
        unsealed_since=None,
        next=following,
    )


def test_parts_of_a_report_are_put_together_and_nothing_is_told_twice() -> None:
    parts = [report(1, 200, 201, 7, 200), report(201, 200, 401, 200), report(401, 5, None, 402)]
    told: list[int] = []
    flow: Any = audit.verified(1, "1:h", lambda part: told.append(part.seals))
    asked: list[Any] = [next(flow), *map(flow.send, parts[:2])]
    with pytest.raises(StopIteration) as end:
        flow.send(parts[2])
    assert [call.params for call in asked] == [{"from": n, "head": "1:h"} for n in (1, 201, 401)]
    whole: AuditReport = end.value.value
    assert told == [200, 400, 405]
    assert (whole.first, whole.seals, whole.events) == (1, 405, 4050)
    assert [p.seal for p in whole.problems] == [7, 200, 402]
    assert (whole.intact, whole.problem_count, whole.head) == (False, 3, "405:x")


def test_a_time_is_given_as_such_or_as_so_long_ago() -> None:
    assert moment("90m", "--since", START) == START - timedelta(minutes=90)
    assert moment("7d", "--since", START) == START - timedelta(days=7)
    assert moment("2026-01-01T13:00+01:00", "--since") == START
    for text in ("yesterday", "5", "2026-13-01", "-1h"):
        with pytest.raises(typer.BadParameter, match="is no time"):
            moment(text, "--since")


def test_who_calls_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.delenv("WTB_ACTOR", raising=False)
    assert identity.caller("cli") == "ada@cli"
    monkeypatch.setenv("WTB_ACTOR", "CI build #17")
    assert identity.caller("cli") == "CI-build--17"


def test_columns_cannot_be_shifted_against_each_other() -> None:
    rows = [
        ("7", 1, "t", "a", None, "x"),
        ("7", 1, "t", "a", "x", None),
        ("7", 1, "ta", "", None, "x"),
    ]
    seen = {sha for row in rows for _, sha in records(index([row]))}
    assert len(seen) == 3
    assert [place for place, _ in records(index([("7", -3, "x")]))] == [Place(7, -3)]
