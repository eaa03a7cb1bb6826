"""The walk through the ML example: what can happen to one pipeline, before many are compared.

Each part does one thing on a bench, shows what came of it, and gives the execution back.
"""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from wtb_ray import api
from wtb_ray.cli import file_views, render
from wtb_ray.cli.terminal import program, stdout
from wtb_ray.sdk import Execution, WTBTestBench


def pipeline(bench: WTBTestBench, project: str) -> None:
    """A training that fails, one that waits for an approval, and the files that it made."""
    diverge(bench, project)
    asked = ask(bench, project)
    look(bench, asked)


def diverge(bench: WTBTestBench, project: str) -> Execution:
    """Trains with a learning rate that is too high: the loss grows until it is no number."""
    _heading("a training that diverges", f"run {project} --variant tune=bold")
    failed = bench.run(project, {}, {"tune": "bold"})
    _show(_steps(bench.get_checkpoints(failed.id)), _standing(failed))
    return failed


def ask(bench: WTBTestBench, project: str) -> Execution:
    """Trains until the quality gate lets the model pass; then somebody must approve it."""
    _heading("a gate that sends back, and a question to somebody", f"run {project}")
    paused = bench.run(project, {})
    _show(_steps(bench.get_checkpoints(paused.id)), _standing(paused))
    return paused


def look(bench: WTBTestBench, execution: Execution) -> list[str]:
    """The files that belong to the newest checkpoint, by their paths."""
    _heading("the files that belong to its state", f"exec files {execution.id}")
    found = bench.files(execution.id)
    _show(file_views.files(found))
    return [entry.path for entry in found]


def _heading(title: str, command: str) -> None:
    _show(Text(title, "bold"), Text(f"{program()} {command}", "dim"))


def _show(*views: RenderableType) -> None:
    console = stdout()
    for view in views:
        console.print(view, soft_wrap=isinstance(view, Text))
    console.print()


def _steps(checkpoints: Sequence[api.Checkpoint]) -> RenderableType:
    """What ran, oldest first; nodes on one line ran at once."""
    made = render.table("step", "nodes", "took", right=["step", "took"])
    for checkpoint in reversed(checkpoints):
        if checkpoint.nodes:
            names = ", ".join(node.name for node in checkpoint.nodes)
            made.add_row(str(checkpoint.step), names, render.duration(checkpoint.duration_ms))
    return made


def _standing(execution: Execution) -> RenderableType:
    """How an execution stands: what it failed of, or what it asks and what would follow."""
    error = execution.error
    failure = Text(f"{error.type} in node {error.node}: {error.message}", "red") if error else None
    asked = [Text(each["value"]["question"], "yellow") for each in execution.interrupts]
    metrics = execution.state.get("metrics")
    return render.facts(
        [
            ("execution", execution.id),
            ("status", render.status(execution.status)),
            ("error", failure),
            ("asks", Text("\n").join(asked) if asked else None),
            ("metrics", Text(render.flat(metrics)) if metrics else None),
            ("next", ", ".join(execution.next_nodes)),
        ]
    )
