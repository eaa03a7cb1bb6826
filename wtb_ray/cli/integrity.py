"""`wtb integrity`: is everything that is stored still consistent, and if not, put it right."""

import sys
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Final

import typer
from rich.text import Text

from wtb_ray.cli import options
from wtb_ray.cli.render import many
from wtb_ray.cli.terminal import EXIT_FAILED, answer, say, stderr
from wtb_ray.integrity.reports import IntegrityRepairs, IntegrityReport
from wtb_ray.sdk import WTBTestBench

app = typer.Typer(no_args_is_help=True, help="Whether what is stored is consistent, and repairs.")

STYLES: Final = {"critical": "red", "warning": "yellow", "info": "dim"}
OUTCOMES: Final = {
    "repaired": "green",
    "would_repair": "cyan",
    "gone": "dim",
    "left": "yellow",
    "manual": "yellow",
    "failed": "red",
}
SHOWN: Final = 200
"""Lines for people; --json has all."""

Deep = Annotated[
    bool, typer.Option("--deep", help="Read every object and compare it with its digest, too.")
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="KIND", help="Only this kind or problem; repeatable."),
]


@app.command()
def check(
    deep: Deep = False,
    only: Only = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Hold rows, checkpoints, files, processes and workspaces against each other.

    It may be done while everything runs. Exit codes: 0 healthy, 3 not: something critical was found.

    \b
    Examples:
      wtb integrity check
      wtb integrity check --deep --only missing_blob
    """
    with options.connect(url) as bench:
        report = _checked(bench, deep, only)
    answer(report, as_json, *_report(report))
    if not report.healthy:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def repair(
    deep: Deep = False,
    only: Only = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Check, show what a repair would do, and do it when that is wanted.

    Exit codes: 0 healthy now, 3 not: something critical is left, which a person has to look at.

    \b
    Examples:
      wtb integrity repair
      wtb integrity repair --only orphan_checkpoint --yes
    """
    with options.connect(url) as bench:
        _checked(bench, deep, only)
        planned = bench.repair_integrity(dry_run=True)
        done = planned
        if planned.counts.get("would_repair") and _wanted(planned, yes, as_json):
            with stderr().status("repairing"):
                done = bench.repair_integrity(dry_run=False)
    answer(done, as_json, *_repairs(done))
    left = [one for one in done.repairs if one.outcome not in ("repaired", "gone")]
    if any(one.severity == "critical" for one in left):
        raise typer.Exit(EXIT_FAILED)


def _checked(bench: WTBTestBench, deep: bool, only: list[str] | None) -> IntegrityReport:
    what = "checking, every object too" if deep else "checking"
    with stderr().status(what):
        return bench.check_integrity(deep, only or ())


def _wanted(planned: IntegrityRepairs, yes: bool, as_json: bool) -> bool:
    """Whether it is to be done; what would be done is shown first."""
    console = stderr()
    if not as_json:
        for line in _repairs(planned):
            console.print(line)
    if yes:
        return True
    if not sys.stdin.isatty():
        say("nothing was repaired: give --yes to repair what would be repaired")
        return False
    return typer.confirm(f"repair {many(planned.counts['would_repair'], 'finding')}?", err=True)


def _report(report: IntegrityReport) -> Iterable[Text]:
    how = "every object read" if report.deep else "without reading objects"
    took = (report.ended_at - report.started_at).total_seconds()
    state = ("healthy", "green") if report.healthy else ("NOT HEALTHY", "red")
    counts = ", ".join(f"{n} {severity}" for severity, n in report.severities.items()) or "nothing"
    yield Text.assemble(state, f": {counts} found in {took:.1f} s, {how} (report {report.id})")
    for one in report.items[:SHOWN]:
        line = Text.assemble(
            (f"  {one.severity:<9}", STYLES[one.severity]), f"{one.problem:<24}", one.message
        )
        yield line.append(f"\n{'':<35}→ {one.repair or one.advice or 'manual'}", "dim")
    if report.findings > SHOWN:
        yield Text(f"  and {report.findings - SHOWN} more: --json has all")
    for name in report.truncated:
        yield Text(
            f"  there are more findings of {name} than a report has: repair, and check again"
        )


def _repairs(repairs: IntegrityRepairs) -> Iterable[Text]:
    counts = Counter(one.outcome for one in repairs.repairs)
    told = ", ".join(f"{n} {outcome.replace('_', ' ')}" for outcome, n in counts.items())
    yield Text(f"{told or 'nothing to repair'} (report {repairs.report_id})")
    for one in repairs.repairs[:SHOWN]:
        outcome = one.outcome.replace("_", " ")
        yield Text.assemble(
            (f"  {outcome:<14}", OUTCOMES[one.outcome]), f"{one.problem:<24}", one.message
        )
    if len(repairs.repairs) > SHOWN:
        yield Text(f"  and {len(repairs.repairs) - SHOWN} more: --json has all")
