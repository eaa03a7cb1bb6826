"""`wtb run`: one execution of one input, watched while it runs."""

from typing import Annotated

import typer
from rich.text import Text

from wtb_ray import api, model
from wtb_ray.cli import options, render
from wtb_ray.cli.progress import Steps, steps_progress
from wtb_ray.cli.terminal import EXIT_FAILED, EXIT_INTERRUPTED, answer, program, say
from wtb_ray.events import EventRow
from wtb_ray.sdk import WTBTestBench
from wtb_ray.sdk.flows import RunOptions
from wtb_ray.states import ExecutionStatus

app = typer.Typer()

RESTS = frozenset(
    {"execution.completed", "execution.failed", "execution.cancelled", "execution.paused"}
)


Project = Annotated[str, typer.Argument(metavar="PROJECT", help="Name of a registered project.")]
Input = Annotated[
    str,
    typer.Option(
        "--input", metavar="JSON", help="The initial state: JSON, @file, or @- for stdin."
    ),
]
Variant = Annotated[
    list[str] | None, typer.Option("--variant", metavar="VARIANT", help="node=variant; repeatable.")
]
Breakpoint = Annotated[
    list[str] | None,
    typer.Option(
        "--breakpoint", metavar="NODE", help="node, before:node or after:node; repeatable."
    ),
]
Version = Annotated[
    str | None,
    typer.Option("--version", metavar="DIGEST", help="A version's digest; default: the newest."),
]
RecursionLimit = Annotated[
    int | None, typer.Option("--recursion-limit", min=1, metavar="N", help="Most super-steps.")
]
Deadline = Annotated[
    float | None,
    typer.Option("--deadline", metavar="S", help="Seconds from its start, after which it fails."),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Start it and return at once.")]


@app.command()
def run(
    project: Project,
    input_: Input = "{}",
    variant: Variant = None,
    breakpoint_: Breakpoint = None,
    version: Version = None,
    recursion_limit: RecursionLimit = None,
    deadline: Deadline = None,
    no_wait: NoWait = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Run a project once and show its final state.

    Ends with exit code 3 when the execution fails or is stopped.

    \b
    Examples:
      wtb run rag --input '{"question": "How do I parse JSON?"}'
      wtb run rag --input @question.json --variant retrieve=tfidf --json
      wtb run rag --input @- --breakpoint before:answer < question.json
    """
    state = options.json_object(input_, "--input")
    binding = options.binding(variant or [])
    more = RunOptions()
    if version is not None:
        more["version"] = version
    if recursion_limit is not None:
        more["recursion_limit"] = recursion_limit
    if deadline is not None:
        more["deadline_s"] = deadline
    with options.connect(url) as bench:
        started = bench.run(project, state, binding, breakpoint_, wait=False, **more)
        if no_wait:
            say(f"started; watch it with: {program()} events --follow --execution {started.id}")
            answer(started.info, as_json, render.execution(started.info))
            return
        _watch(bench, started.id)
        ended = bench.get_execution(started.id)
    show(ended.info, ended.view, as_json)
    if ended.status in (ExecutionStatus.FAILED, ExecutionStatus.CANCELLED):
        raise typer.Exit(EXIT_FAILED)


def _watch(bench: WTBTestBench, id: str) -> None:
    """Follows the execution until it rests, with a line for every step."""
    try:
        with steps_progress(f"running {id}") as steps:
            for row in bench.events(execution=id, follow=True):
                _report(row, steps)
                if row.type in RESTS:
                    return
    except KeyboardInterrupt:
        say(f"interrupted; the execution goes on: {program()} events --follow --execution {id}")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _report(row: EventRow, steps: Steps) -> None:
    if row.type == "step.completed":
        names = ", ".join(row.payload["nodes"])
        took = render.duration(row.payload["duration_ms"])
        steps(f"step {row.payload['step']}: {names} ({took})")
        if following := row.payload["next_nodes"]:
            steps.wait(f"running {', '.join(following)}")
    elif row.type == "execution.requeued":
        steps(f"started again: {row.payload['reason']}")


def show(info: model.Execution, view: api.StateView, as_json: bool) -> None:
    """An execution, what it asks if it waits, and its state."""
    asked = [Text(f"asks: {render.flat(interrupt)}", "yellow") for interrupt in view.interrupts]
    waits = info.status == ExecutionStatus.PAUSED and view.next_nodes
    upcoming = [Text(f"next: {', '.join(view.next_nodes)}", "dim")] if waits else []
    answer(
        {"execution": info, "state": view},
        as_json,
        render.execution(info),
        *asked,
        *upcoming,
        Text(),
        render.state(view),
    )
