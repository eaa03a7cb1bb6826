"""The walk through the ML example: what can happen to one pipeline, before many are compared.

Each part does one thing on a bench, shows what came of it, and gives the execution back.
"""

from collections.abc import Sequence
from typing import Final

from rich.console import RenderableType
from rich.text import Text

from wtb_ray import api
from wtb_ray.cli import file_views, render
from wtb_ray.cli.terminal import program, stdout
from wtb_ray.file_entries import FileChange
from wtb_ray.sdk import Execution, WTBTestBench

SAFE_RATE: Final = 0.02
"""A learning rate with which the loss falls."""


def pipeline(bench: WTBTestBench, project: str) -> None:
    """A training that fails and is mended, attempts gone back to, a fork, and an approval."""
    recover(bench, diverge(bench, project))
    asked = ask(bench, project)
    look(bench, asked)
    go_back(bench, asked)
    fork(bench, asked)
    approve(bench, asked)


def diverge(bench: WTBTestBench, project: str) -> Execution:
    """Trains with a learning rate that is too high: the loss grows until it is no number."""
    _heading("a training that diverges", f"run {project} --variant tune=bold")
    failed = bench.run(project, {}, {"tune": "bold"})
    _show(_steps(bench.get_checkpoints(failed.id)), _standing(failed))
    return failed


def recover(bench: WTBTestBench, failed: Execution) -> Execution:
    """Puts the failed execution back to before it chose, and lets it go on with a safer choice."""
    safer = {"hyperparameters": {"learning_rate": SAFE_RATE}}
    _heading(
        "the same execution, back before the choice and on with a safer one",
        f"exec rollback {failed.id} --node tune --entry",
    )
    bench.rollback_to_node(failed.id, "tune", "entry")
    mended = bench.resume(failed.id, safer)
    _show(_steps(bench.get_checkpoints(mended.id)), _standing(mended))
    return mended


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


def go_back(bench: WTBTestBench, asked: Execution) -> list[FileChange]:
    """Puts the execution back to its first attempt, files and state together, and forward again."""
    attempts = [
        checkpoint.id
        for checkpoint in bench.get_checkpoints(asked.id)
        if "evaluate" in {node.name for node in checkpoint.nodes}
    ]
    newest, first = attempts[0], attempts[-1]
    _heading("what changed between its attempts", f"exec diff {asked.id} --from {first}")
    changes = bench.diff_files(asked.id, first, newest)
    _show(file_views.changes(changes))
    _heading("back to the first attempt, and forward again", f"exec rollback {asked.id} {first}")
    for checkpoint in (first, newest):
        moved = bench.rollback(asked.id, checkpoint)
        _show(_standing(moved))
    return changes


def fork(bench: WTBTestBench, asked: Execution) -> Execution:
    """Goes on from before the training with another model, in an execution and files of its own."""
    _heading(
        "a fork that trains another model from the same point",
        f"exec fork {asked.id} --node train --entry --variant train=linear --run",
    )
    forked = bench.fork(
        asked.id, node="train", where="entry", variant_config={"train": "linear"}, run=True
    )
    made = render.table("execution", "train", "metrics")
    for execution, model in ((asked, "as it was"), (forked, "linear")):
        made.add_row(execution.id, model, render.flat(execution.state.get("metrics")))
    _show(made)
    return forked


def approve(bench: WTBTestBench, asked: Execution) -> Execution:
    """Lets it ask again, answers, and shows what was deployed."""
    waiting = bench.resume(asked.id)
    _heading("somebody approves", f"exec answer {asked.id} ...")
    answers = {each["id"]: {"approve": True, "by": "the demo"} for each in waiting.interrupts}
    done = bench.answer(asked.id, answers)
    _show(_standing(done), file_views.files(bench.files(done.id, prefix="output")))
    return done


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
