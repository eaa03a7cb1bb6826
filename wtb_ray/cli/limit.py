"""`wtb limit`: rates and concurrency that all processes of the bench share."""

from collections.abc import Iterable
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from wtb_ray.cli import options
from wtb_ray.cli.terminal import answer, say
from wtb_ray.rates import Limit
from wtb_ray.sdk.limits import AnyRate

app = typer.Typer(no_args_is_help=True, help="Limit what nodes do with `wtb_ray.limit`.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="What nodes call the limit with.")]
Rates = Annotated[
    list[str] | None,
    typer.Option(
        "--rate", metavar="UNIT=N[:BURST]", help="Another unit, or a burst of its own; repeatable."
    ),
]


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number", param_hint=option) from None


def _rate(text: str) -> tuple[str, AnyRate]:
    unit, is_there, amounts = text.partition("=")
    if not is_there or not unit:
        raise typer.BadParameter(f"{text!r} is not UNIT=N[:BURST]", param_hint="--rate")
    rate, has_burst, burst = amounts.partition(":")
    per_minute = _number(rate, "--rate")
    return unit, (per_minute, _number(burst, "--rate")) if has_burst else per_minute


@app.command("set")
def set_(
    name: Name,
    requests: Annotated[
        float | None, typer.Option("--requests", metavar="N", help="Requests a minute.")
    ] = None,
    tokens: Annotated[
        float | None, typer.Option("--tokens", metavar="N", help="Tokens a minute.")
    ] = None,
    rate: Rates = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", metavar="N", help="Most inside at once.")
    ] = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Make a limit, or change it; what is not given is not limited any more.

    \b
    Examples:
      wtb limit set openai --requests 500 --tokens 90000 --concurrency 20
      wtb limit set search --rate requests=60:5
    """
    named = {"requests": requests, "tokens": tokens}
    rates: dict[str, AnyRate] = {unit: n for unit, n in named.items() if n is not None}
    rates |= dict(_rate(text) for text in rate or [])
    with options.connect(url) as bench:
        made = bench.set_limit(name, concurrency=concurrency, **rates)
    answer(made, as_json, _table([made]))


@app.command("list")
def list_(as_json: options.AsJson = False, url: options.Url = None) -> None:
    """List all limits, and how they stand."""
    with options.connect(url) as bench:
        found = bench.limits()
    answer(found, as_json, _table(found))


@app.command()
def remove(name: Name, url: options.Url = None) -> None:
    """Remove a limit; nodes that wait for it are refused."""
    with options.connect(url) as bench:
        bench.remove_limit(name)
    say(f"removed: {name}")


def _table(limits: Iterable[Limit]) -> Table:
    table = Table("limit", "unit", "a minute", "at once", "there now", "inside", box=None)
    for one in limits:
        inside = "" if one.concurrency is None else f"{one.inside} of {one.concurrency}"
        first = (escape(one.name), inside)
        for unit, rate in one.units.items():
            there = f"{one.levels[unit]:.0f}"
            numbers = (f"{rate.per_minute:g}", f"{rate.burst:g}", there)
            table.add_row(first[0], escape(unit), *numbers, first[1])
            first = ("", "")
        if not one.units:
            table.add_row(first[0], "", "", "", "", inside)
    return table
