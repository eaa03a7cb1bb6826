"""`wtb demo`: a whole example from the start of the stack to the leaderboard, in one command."""

import importlib
import shlex
from collections.abc import Callable
from types import ModuleType
from typing import Annotated, Final, Literal

import typer
from rich.text import Text

from wtb_ray import model
from wtb_ray.cli import batch, checks, options, render, stack, walk
from wtb_ray.cli.terminal import program, say, stdout
from wtb_ray.sdk import WTBTestBench, calls, identity, local
from wtb_ray.settings import Settings

app = typer.Typer()

Name = Literal["rag", "ml"]
EXAMPLES: Final[dict[Name, str]] = {"rag": "wtb_ray.examples.rag", "ml": "wtb_ray.examples.ml"}
"""By import path: an example brings libraries that no other command should have to load."""
WALKS: Final[dict[str, Callable[[WTBTestBench, str], None]]] = {"ml": walk.pipeline}
"""What is shown of single executions, before a batch compares the variants."""


@app.command()
def demo(
    name: Annotated[Name, typer.Argument(metavar="NAME", help="Which example.")] = "rag",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="Only so many of its cases.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep/--down", help="Leave the stack running, or stop it at the end.")
    ] = True,
    data_dir: options.DataDir = None,
    url: options.Url = None,
) -> None:
    """Run an example from start to leaderboard.

    Starts the stack when none runs, registers the example, runs its variants on its cases, and
    compares them.

    `rag` answers questions about Python's standard library from its documentation, with three
    retrievers and two rerankers. `ml` trains a classifier of handwritten digits: a training
    diverges, a quality gate sends back, somebody is asked, and three feature sets with three
    models are compared. Both need no network and no key.

    \b
    Examples:
      wtb demo rag
      wtb demo rag --limit 40 --down
      wtb demo ml
    """
    found = options.settings(data_dir=data_dir)
    example = importlib.import_module(EXAMPLES[name])
    running = None if url else _stack(found)
    try:
        with WTBTestBench(running.url if running else url, actor=identity.caller("cli")) as bench:
            id = _run(bench, example, limit)
        _next_steps(name, id, running, found)
    finally:
        if not keep and running is not None:
            stack.stop(found.data_dir)


def _stack(settings: Settings) -> local.Stack:
    """The running stack, or a new one; a port that is taken must not be in the way of a demo."""
    ports = {
        "http_port": settings.http_port,
        "grpc_port": settings.grpc_port,
        "dashboard_port": settings.dashboard_port,
    }
    if local.running(settings.data_dir) is None:
        for name, number in ports.items():
            if checks.port(name, number, "").level == "FAIL":
                say(f"port {number} is taken: using a free one")
                ports[name] = 0
    return stack.start(settings, "dev", **ports)


def _run(bench: WTBTestBench, example: ModuleType, limit: int | None) -> str:
    """Registers the example, walks through it, runs its matrix, prints the leaderboard.

    Gives the batch's id.
    """
    version: model.ProjectVersion = bench.send(calls.register(example.project()))
    cases: list[model.Case] = spread(example.cases(), limit)
    matrix: list[dict[str, str]] = example.matrix()
    say(
        f"registered {version.project} ({version.version[: render.SHORT]}):"
        f" {version.spec.description}"
    )
    if version.project in WALKS:
        WALKS[version.project](bench, version.project)
    say(f"{render.many(len(matrix), 'variant')} on {render.many(len(cases), 'case')}")
    done = bench.run_batch_test(version.project, matrix, cases, example.scorers(), wait=False)
    batch.watch(done, version.project)
    console = stdout()
    console.print()
    console.print(Text(f"leaderboard of {done.id}", "bold"), end="\n\n")
    batch.show_board(bench.leaderboard(done))
    return done.id


def spread(cases: list[model.Case], limit: int | None) -> list[model.Case]:
    """So many cases, evenly from the whole list: it has several kinds, one after the other."""
    if limit is None or limit >= len(cases):
        return cases
    return [cases[i * len(cases) // limit] for i in range(limit)]


def _next_steps(name: str, id: str, running: local.Stack | None, settings: Settings) -> None:
    console = stdout()
    console.print()
    if running is not None:
        console.print(stack.places(running, settings.data_dir))
        console.print()
    console.print(Text("look further", "dim"))
    if settings.data_dir.resolve() != options.settings().data_dir.resolve():
        console.print(f"  export WTB_DATA_DIR={shlex.quote(str(settings.data_dir))}")
    for command in (
        f"leaderboard {id}",
        f"batch results {id} --limit 20",
        f"events --batch {id} --type cell.scored",
        f"project show {name}",
    ):
        console.print(f"  {program()} {command}", soft_wrap=True)
