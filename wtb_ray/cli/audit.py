"""`wtb audit`: who did what, and whether the log of it is as it was sealed."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from wtb_ray import timeline
from wtb_ray.api import AuditReport, AuditSummary, TimelineEntry
from wtb_ray.cli import options
from wtb_ray.cli.events import checked_types
from wtb_ray.cli.terminal import EXIT_FAILED, answer, json_text, say, stderr, stdout
from wtb_ray.events import EventRow
from wtb_ray.sdk import WTBTestBench
from wtb_ray.sdk.audit import AuditFilter

app = typer.Typer(no_args_is_help=True, help="Who did what, and proof that the log is intact.")

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Execution = Annotated[
    str | None, typer.Option("--execution", metavar="ID", help="Of this execution.")
]
OfBatch = Annotated[str | None, typer.Option("--batch", metavar="ID", help="Of this batch.")]
Project = Annotated[str | None, typer.Option("--project", metavar="NAME", help="Of this project.")]
Actor = Annotated[
    str | None,
    typer.Option("--actor", metavar="WHO", help="By this actor; `http:*`: all that begin so."),
]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", metavar="TYPE", help="Of this type, e.g. cell.failed; repeatable."),
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="TIME",
        help="From this local time on, 2026-05-01T12:00, or 90m, 2h, 7d ago.",
    ),
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before then.")]


@app.command()
def verify(
    first: Annotated[
        int,
        typer.Option("--from", min=1, metavar="SEAL", help="Begin at this seal, not at the first."),
    ] = 1,
    head: Annotated[
        str | None,
        typer.Option(
            "--head", metavar="NUMBER:CHAIN", help="The head of an earlier report must be there."
        ),
    ] = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Check that no event and no seal was changed, removed or added.

    Exit codes: 0 the log is intact, 3 it is not. Keep the printed head somewhere else, and give it
    with --head next time: then a log that was cut off everywhere is found too.

    \b
    Examples:
      wtb audit verify
      wtb audit verify --from 1200 --head 1199:5f2c...
    """
    with options.connect(url) as bench, stderr().status("checking") as shown:
        report = bench.verify_audit(
            first,
            head,
            lambda part: shown.update(f"{part.seals} seals, {part.events} events checked"),
        )
    answer(report, as_json, *_report(report))
    if not report.intact:
        raise typer.Exit(EXIT_FAILED)


def _report(report: AuditReport) -> Iterable[Text]:
    checked = f"{report.seals} seals over {report.events} events, from seal {report.first} on"
    if report.intact:
        yield Text.assemble(("intact", "green"), f": {checked}")
    else:
        yield Text.assemble(
            ("NOT INTACT", "red"), f": {report.problem_count} problems in {checked}"
        )
    for problem in report.problems:
        span = f"  [{problem.after} .. {problem.to}]" if problem.after else ""
        yield Text(f"  {problem.kind:<15}{problem.message}{span}", style="red")
    if report.problem_count > len(report.problems):
        yield Text(f"  and {report.problem_count - len(report.problems)} more", style="red")
    if report.head:
        yield Text(f"head: {report.head}", no_wrap=True, overflow="ignore")
    if report.unsealed:
        yield Text(f"{report.unsealed} events since {report.unsealed_since} are not sealed yet")


@app.command()
def show(
    execution: Execution = None,
    batch: OfBatch = None,
    project: Project = None,
    actor: Actor = None,
    type_: Types = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, metavar="N", help="Without an id: the newest N.")
    ] = 50,
    steps: Annotated[
        bool, typer.Option("--steps", help="With --batch: the steps of its executions too.")
    ] = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="Count events by type, by actor and by failure.")
    ] = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Show who did what: the story of an execution or batch, or the newest events.

    A line has the time, the time since the start, the time since the line before, who, and what.

    \b
    Examples:
      wtb audit show --execution e0198c1
      wtb audit show --actor 'http:*' --since 2h
      wtb audit show --batch b0198c1 --summary
    """
    others = _filter(None, None, project, actor, type_, since, until)
    wanted = _filter(execution, batch, project, actor, type_, since, until)
    with options.connect(url) as bench:
        if summary:
            sums = bench.audit_summary(**wanted)
            answer(sums, as_json, *_summary(sums))
        elif (execution is None) != (batch is None) and not others:
            entries = bench.audit_timeline(execution, batch, steps)
            _print(entries, entries, as_json, of_batch=batch is not None)
        else:
            rows = list(bench.audit_events(newest_first=True, limit=limit, **wanted))[::-1]
            _print(timeline.entries(rows), rows, as_json, of_batch=execution is None)


def _print(
    entries: Iterable[TimelineEntry],
    plain: list[TimelineEntry] | list[EventRow],
    as_json: bool,
    *,
    of_batch: bool,
) -> None:
    if as_json:
        answer(plain, as_json)
        return
    console = stdout()
    for entry in entries:
        style = "red" if entry.type.endswith((".failed", ".lost")) else ""
        console.print(
            Text(timeline.line(entry, with_execution=of_batch), style=style), soft_wrap=True
        )


def _summary(sums: AuditSummary) -> Iterable[Text | Table]:
    span = f", {sums.first:%Y-%m-%d %H:%M:%S} to {sums.last:%Y-%m-%d %H:%M:%S}" if sums.last else ""
    yield Text(f"{sums.events} events{span}")
    for title, counts in (("type", sums.types), ("actor", sums.actors)):
        table = Table(title, "events", "first", "last", box=None)
        for row in counts:
            times = [f"{at:%Y-%m-%d %H:%M:%S}" for at in (row.first, row.last)]
            table.add_row(escape(row.name), str(row.events), *times)
        yield table
    if sums.errors:
        table = Table("failure", "error", "node", "events", "last", box=None)
        for error in sums.errors:
            last = f"{error.last:%Y-%m-%d %H:%M:%S}"
            table.add_row(error.type, error.code, error.node, str(error.events), last)
        yield table


@app.command()
def export(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", dir_okay=False, help="Default: stdout."),
    ] = None,
    execution: Execution = None,
    batch: OfBatch = None,
    project: Project = None,
    actor: Actor = None,
    type_: Types = None,
    since: Since = None,
    until: Until = None,
    url: options.Url = None,
) -> None:
    """Write events as JSON lines, in the order of the log.

    \b
    Examples:
      wtb audit export > audit.jsonl
      wtb audit export --since 7d --type execution.failed -o failed.jsonl
    """
    wanted = _filter(execution, batch, project, actor, type_, since, until)
    with options.connect(url) as bench:
        if output is None:
            for row in bench.audit_events(**wanted):
                typer.echo(json_text(row, indent=False))
            return
        try:
            count = _write(bench, output, wanted)
        except OSError as e:
            reason = f"cannot write {output}: {e.strerror}"
            raise typer.BadParameter(reason, param_hint="--output") from e
    say(f"{count} events in {output}")


def _write(bench: WTBTestBench, output: Path, wanted: AuditFilter) -> int:
    count = 0
    with output.open("w") as file, stderr().status("exporting") as shown:
        for row in bench.audit_events(**wanted):
            file.write(f"{json_text(row, indent=False)}\n")
            count += 1
            if count % 1000 == 0:
                shown.update(f"{count} events written")
    return count


def _filter(
    execution: str | None,
    batch: str | None,
    project: str | None,
    actor: str | None,
    types: list[str] | None,
    since: str | None,
    until: str | None,
) -> AuditFilter:
    wanted = AuditFilter()
    if execution is not None:
        wanted["execution"] = execution
    if batch is not None:
        wanted["batch"] = batch
    if project is not None:
        wanted["project"] = project
    if actor is not None:
        wanted["actor"] = actor
    if types:
        wanted["types"] = checked_types(types)
    if since is not None:
        wanted["since"] = moment(since, "--since")
    if until is not None:
        wanted["until"] = moment(until, "--until")
    return wanted


def moment(text: str, option: str, now: datetime | None = None) -> datetime:
    """A time of ISO text, local without a zone, or so long ago as `90m` says."""
    if match := re.fullmatch(r"(\d{1,6})([smhd])", text):
        return (now or datetime.now(UTC)) - timedelta(seconds=int(match[1]) * UNITS[match[2]])
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as e:
        raise typer.BadParameter(
            f"{text!r} is no time: 2026-05-01T12:00, or 90s, 30m, 2h, 7d ago", param_hint=option
        ) from e
