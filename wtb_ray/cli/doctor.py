"""`wtb doctor`: is everything there that the bench needs, and if not, what to do."""

from typing import Final

import typer
from rich.text import Text

from wtb_ray import api, errors
from wtb_ray.cli import checks, options
from wtb_ray.cli.checks import Check
from wtb_ray.cli.terminal import EXIT_ERROR, answer
from wtb_ray.sdk import WTBTestBench, calls, identity, local
from wtb_ray.settings import Settings

app = typer.Typer()

LEVEL_STYLES: Final = {"OK": "green", "WARN": "yellow", "FAIL": "red"}


@app.command()
def doctor(
    data_dir: options.DataDir = None, as_json: options.AsJson = False, url: options.Url = None
) -> None:
    """Check machine, stack, database and objects.

    Every check says OK, WARN or FAIL, and what to do about it. Ends with exit code 1 when a check fails.
    """
    found = options.settings(data_dir=data_dir)
    outcome = checks.machine(found) + _bench(found, url)
    answer({"checks": outcome}, as_json, *map(_line, outcome))
    if any(check.level == "FAIL" for check in outcome):
        raise typer.Exit(EXIT_ERROR)


def _line(check: Check) -> Text:
    line = Text.assemble(
        (f"{check.level:<4}", LEVEL_STYLES[check.level]), f"  {check.name:<16}", check.detail
    )
    return line.append(f"\n      {'':<16}→ {check.cure}", "dim") if check.cure else line


def _bench(settings: Settings, url: str | None) -> list[Check]:
    """The stack, or the bench at the URL; the ports of one that is yet to be started."""
    if url is None:
        stack = local.running(settings.data_dir)
        if stack is None:
            cure = "start it: wtb up"
            idle = Check(name="stack", level="WARN", detail="not running", cure=cure)
            return [idle, *checks.ports(settings)]
        url = stack.url
    try:
        with WTBTestBench(url, actor=identity.caller("cli")) as bench:
            health = bench.send(calls.ready())
    except errors.WTBError as e:
        return [Check(name="stack", level="FAIL", detail=e.message, cure="wtb down, then wtb up")]
    return [_answered(url, health), *_parts(health)]


def _answered(url: str, health: api.Health) -> Check:
    ready = health.status == "ok"
    return Check(
        name="stack",
        level="OK" if ready else "FAIL",
        detail=f"wtb-ray {health.version} at {url}, {'ready' if ready else health.status}",
        cure="" if ready else "wait, or look into stack.log in the data directory",
    )


def _parts(health: api.Health) -> list[Check]:
    return [
        Check(name=f"stack {name}", level="OK" if state == "ok" else "FAIL", detail=state)
        for name, state in health.components.items()
    ]
