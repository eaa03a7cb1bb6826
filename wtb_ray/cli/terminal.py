"""Where the CLI writes: answers on stdout, everything else on stderr, one clear line for an error.

Tables are as wide as they need when nobody looks at them through a terminal, so that a pipe never
gets a cut-off value. Nothing here talks to the bench.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any, Final

import orjson
import typer
from pydantic import BaseModel
from rich.console import Console, RenderableType
from typer.core import TyperGroup

from wtb_ray import errors

EXIT_ERROR: Final = 1
EXIT_FAILED: Final = 3
EXIT_INTERRUPTED: Final = 130
PIPE_WIDTH: Final = 200


def stdout() -> Console:
    """The console for answers."""
    return _console(stderr=False)


def stderr() -> Console:
    """The console for progress, hints and errors."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(stderr=stderr, highlight=False, markup=False, width=width)


def say(text: str, style: str | None = None) -> None:
    """A line for people, on stderr."""
    stderr().print(text, style=style, soft_wrap=True)


def answer(value: Any, as_json: bool, *views: RenderableType) -> None:
    """Prints `value` as JSON, or the views of it."""
    if as_json:
        typer.echo(json_text(value))
        return
    console = stdout()
    for view in views:
        console.print(view)


def json_text(value: Any, *, indent: bool = True) -> str:
    """The JSON of models and of plain values that hold models."""
    option = orjson.OPT_NON_STR_KEYS | (orjson.OPT_INDENT_2 if indent else 0)
    return orjson.dumps(value, default=_plain, option=option).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form")


def program() -> str:
    """How this script is called: `wtb` where the shell finds it by its name, else its path."""
    called = Path(sys.argv[0])
    if called.name != "wtb" or shutil.which("wtb") == str(called.absolute()):
        return "wtb"
    here = Path.cwd()
    path = called.absolute()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def error_line(error: errors.WTBError) -> str:
    """`error: message (code)`, and where in what was sent the fault lies, and why."""
    named = [(name, error.details.get(name)) for name in ("field", "reason")]
    shown = [f"{name}={_short(value)}" for name, value in named if value not in (None, "")]
    return f"error: {error.message} ({error.code})" + (f" [{', '.join(shown)}]" if shown else "")


def cells_line(error: errors.SharedExecution) -> str:
    """Which cells share the execution, and how one of them is named."""
    cells = [str(cell) for cell in error.details.get("cells", ())]
    return (
        f"it is shared by the cells {', '.join(cells)}: name one with --cell and it goes on alone;"
        f" `{program()} batch results BATCH` lists them"
    )


def _short(value: Any, limit: int = 200) -> str:
    text = value if isinstance(value, str) else json_text(value, indent=False)
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class Commands(TyperGroup):
    """The root command: turns the bench's own errors into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except errors.WTBError as e:
            say(error_line(e), style="red")
            if isinstance(e, errors.SharedExecution):
                say(cells_line(e))
            raise typer.Exit(EXIT_ERROR) from e
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from None
