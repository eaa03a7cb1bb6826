"""`wtb events`: the event log, as lines for people or as one JSON object a line."""

from typing import Annotated

import typer

from wtb_ray.cli import options, render
from wtb_ray.cli.terminal import EXIT_INTERRUPTED, json_text, say, stdout
from wtb_ray.events import TYPES, EventRow

app = typer.Typer()

Follow = Annotated[bool, typer.Option("--follow", "-f", help="Stay and print what comes.")]
After = Annotated[
    str | None,
    typer.Option(
        "--after", metavar="CURSOR", help="Only what came after this cursor; `now` for new ones."
    ),
]
Execution = Annotated[
    str | None, typer.Option("--execution", metavar="ID", help="Only of this execution.")
]
OfBatch = Annotated[str | None, typer.Option("--batch", metavar="ID", help="Only of this batch.")]
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--type", metavar="TYPE", help="Only of this type, e.g. step.completed; repeatable."
    ),
]
JsonLines = Annotated[bool, typer.Option("--json", help="One JSON object a line, with its cursor.")]


@app.command()
def events(
    follow: Follow = False,
    after: After = None,
    execution: Execution = None,
    batch: OfBatch = None,
    type_: Types = None,
    as_json: JsonLines = False,
    url: options.Url = None,
) -> None:
    """Print the event log.

    Every change of anything is in it, in the order in which it happened.

    \b
    Examples:
      wtb events --batch b0198c1 --type cell.failed
      wtb events --follow --after now
      wtb events --json --after 1234.56 > events.jsonl
    """
    wanted = checked_types(type_ or [])
    last = after
    with options.connect(url) as bench:
        rows = bench.events(after, execution=execution, batch=batch, types=wanted, follow=follow)
        try:
            for row in rows:
                last = row.cursor
                _print(row, as_json)
        except KeyboardInterrupt:
            say(f"go on with: --after {last}" if last else "no events")
            raise typer.Exit(EXIT_INTERRUPTED) from None


def _print(row: EventRow, as_json: bool) -> None:
    if as_json:
        typer.echo(json_text(row, indent=False))
    else:
        stdout().print(render.event(row), soft_wrap=True)


def checked_types(names: list[str]) -> list[str]:
    """The names, if they are all names of events."""
    for name in names:
        if name not in TYPES:
            raise typer.BadParameter(
                f"there is no event {name!r}; there are {', '.join(sorted(TYPES))}",
                param_hint="--type",
            )
    return names
