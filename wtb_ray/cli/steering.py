"""`wtb exec`: control of executions, and their history as a tree."""

from typing import Annotated, Any, Final

import typer
from rich.text import Text

from wtb_ray import errors
from wtb_ray.cli import history_views, options, render
from wtb_ray.cli.executions import ExecutionId
from wtb_ray.cli.run import show as show_state
from wtb_ray.cli.terminal import EXIT_FAILED, answer
from wtb_ray.sdk import Execution, WTBTestBench, calls
from wtb_ray.sdk.steering import StateOptions
from wtb_ray.states import ExecutionStatus, PauseStrategy

app = typer.Typer()

WHOLE: Final = 36
"""Characters of a checkpoint's id."""

NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once.")]
Place = Annotated[
    str | None,
    typer.Argument(metavar="[CHECKPOINT]", help="Id of a checkpoint, or its beginning."),
]
State = Annotated[
    str | None,
    typer.Option("--state", metavar="JSON", help="Change the state: JSON, @file, or @- for stdin."),
]
AsNode = Annotated[
    str | None,
    typer.Option("--as-node", metavar="NODE", help="Change it as if this node had written it."),
]
Replace = Annotated[bool, typer.Option("--replace", help="Overwrite instead of reducing.")]
Limit = Annotated[
    int | None, typer.Option("--recursion-limit", min=1, metavar="N", help="Most super-steps.")
]
Cell = Annotated[
    int | None,
    typer.Option(
        "--cell",
        metavar="CELL",
        help="Which of the cells that share it is meant: it goes on alone.",
    ),
]
Reason = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Why, for the event log.")
]


@app.command("list")
def list_executions(
    project: Annotated[
        str | None, typer.Option("--project", metavar="PROJECT", help="Only of this project.")
    ] = None,
    status: Annotated[
        ExecutionStatus | None,
        typer.Option("--status", case_sensitive=False, help="Only in this status."),
    ] = None,
    batch: Annotated[
        str | None, typer.Option("--batch", metavar="BATCH", help="Only of this batch.")
    ] = None,
    limit: options.Limit = 20,
    after: options.After = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """List executions, newest first."""
    with options.connect(url) as bench:
        call = calls.executions(after, limit, project=project, status=status, batch=batch)
        page = bench.send(call)
    answer(page, as_json, history_views.executions(page.items), render.more(page))


@app.command()
def show(execution: ExecutionId, as_json: options.AsJson = False, url: options.Url = None) -> None:
    """Draw an execution: its steps and branches with nodes and durations, and what was forked off.

    \b
    ◀ is where it stands, ▤ a checkpoint with files; what is dim was left by a rollback.
    """
    with options.connect(url) as bench:
        info = bench.send(calls.execution(execution))
        tree = bench.branches(execution)
        asked = bench.interrupts(execution) if info.status == ExecutionStatus.PAUSED else []
    drawn = history_views.tree(info, tree)
    both = {"execution": info, "tree": tree}
    views = [history_views.questions(asked)] if asked else []
    answer(both, as_json, render.execution(info), Text(), drawn, *views)


@app.command()
def pause(
    execution: ExecutionId,
    reason: Reason = None,
    strategy: Annotated[
        PauseStrategy | None,
        typer.Option("--strategy", case_sensitive=False, help="What it keeps meanwhile."),
    ] = None,
    expected: Annotated[
        float | None,
        typer.Option(
            "--expected", min=0, metavar="SECONDS", help="For how long; the strategy follows."
        ),
    ] = None,
    no_wait: NoWait = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Pause an execution after its present step."""
    with options.connect(url) as bench:
        found = bench.pause(
            execution, reason, wait=not no_wait, strategy=strategy, expected_s=expected
        )
    show_moved(found, as_json)


@app.command()
def resume(
    execution: ExecutionId,
    state: State = None,
    as_node: AsNode = None,
    replace: Replace = False,
    recursion_limit: Limit = None,
    cell: Cell = None,
    no_wait: NoWait = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Send a paused execution on, with another state if one is given.

    Ends with exit code 3 when the execution fails or is stopped.

    \b
    Examples:
      wtb exec resume e0198c1
      wtb exec resume e0198c1 --state '{"question": "Why?"}' --replace
    """
    with options.connect(url) as bench:
        found = bench.resume(
            execution,
            given_state(state),
            recursion_limit=recursion_limit,
            wait=not no_wait,
            **_changing(as_node, replace, cell),
        )
    show_moved(found, as_json, ends=True)


@app.command()
def step(
    execution: ExecutionId,
    no_wait: NoWait = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Let a paused execution run one super-step."""
    with options.connect(url) as bench:
        found = bench.step(execution, wait=not no_wait)
    show_moved(found, as_json, ends=True)


@app.command()
def retry(
    execution: ExecutionId,
    recursion_limit: Limit = None,
    no_wait: NoWait = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Let a failed execution go on from where it stands."""
    with options.connect(url) as bench:
        found = bench.retry(execution, recursion_limit, wait=not no_wait)
    show_moved(found, as_json, ends=True)


@app.command("break")
def set_breakpoints(
    execution: ExecutionId,
    nodes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NODE]...", help="node, before:node or after:node."),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take all breakpoints away.")] = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Show where an execution pauses, or say it anew, also while it runs.

    \b
    Examples:
      wtb exec break e0198c1 answer after:retrieve
      wtb exec break e0198c1 --clear
    """
    if clear and nodes:
        raise typer.BadParameter("it goes without nodes", param_hint="--clear")
    with options.connect(url) as bench:
        if nodes or clear:
            found = list(bench.set_breakpoints(execution, nodes or []).info.breakpoints)
        else:
            found = bench.breakpoints(execution)
    shown = Text("\n".join(found)) if found else render.nothing("breakpoints")
    answer({"breakpoints": found}, as_json, shown)


@app.command("answer")
def answer_questions(
    execution: ExecutionId,
    answers: Annotated[
        list[str] | None, typer.Argument(metavar="[INTERRUPT=JSON]...", help="Answers by id.")
    ] = None,
    value: Annotated[
        str | None,
        typer.Option("--value", metavar="JSON", help="The answer, where only one is asked for."),
    ] = None,
    cell: Cell = None,
    no_wait: NoWait = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Show what an execution asks, or answer it.

    \b
    Examples:
      wtb exec answer e0198c1
      wtb exec answer e0198c1 --value '{"approved": true}'
      wtb exec answer e0198c1 5f2a=true 77c1='"later"'
      wtb exec answer e0198c1 --value true --cell 4711
    """
    given = {id: options.json_value(text, id) for id, text in _pairs(answers)}
    with options.connect(url) as bench:
        if value is not None:
            given = {
                **given,
                _only_question(bench, execution): options.json_value(value, "--value"),
            }
        if not given:
            asked = bench.interrupts(execution)
            answer(asked, as_json, history_views.questions(asked))
            return
        found = bench.answer(execution, given, cell=cell, wait=not no_wait)
    show_moved(found, as_json, ends=True)


def _pairs(answers: list[str] | None) -> list[tuple[str, str]]:
    return [options.pair(text, "INTERRUPT=JSON", "id=JSON") for text in answers or []]


def _only_question(bench: WTBTestBench, execution: str) -> str:
    asked = [question.id for question in bench.interrupts(execution) if not question.answered]
    if len(asked) != 1:
        raise typer.BadParameter(
            f"{render.many(len(asked), 'question')} wait: name them as INTERRUPT=JSON",
            param_hint="--value",
        )
    return asked[0]


@app.command()
def stop(
    execution: ExecutionId,
    reason: Reason = None,
    kill: Annotated[bool, typer.Option("--kill", help="At once, whatever its nodes do.")] = False,
    cell: Cell = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Stop an execution for good; nodes that do not end are left behind.

    All cells that share it stop, or the one of --cell alone.
    """
    with options.connect(url) as bench:
        found = bench.stop(execution, reason, kill, cell)
    show_moved(found, as_json)


@app.command()
def node(
    execution: ExecutionId,
    name: Annotated[str | None, typer.Argument(metavar="[NODE]", help="Run this node.")] = None,
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="JSON", help="On this state; default: the newest one."),
    ] = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Show what each node has done, or try one node out: nothing moves.

    Ends with exit code 3 when the node that was tried fails.

    \b
    Examples:
      wtb exec node e0198c1
      wtb exec node e0198c1 answer --state '{"question": "Why?"}'
    """
    if name is None and state is not None:
        raise typer.BadParameter("it needs NODE", param_hint="--state")
    with options.connect(url) as bench:
        if name is None:
            found = bench.nodes(execution)
            answer(found, as_json, history_views.nodes(found))
            return
        outcome = bench.execute_node(execution, name, given_state(state))
    answer(outcome, as_json, history_views.outcome(outcome))
    if outcome.error is not None:
        raise typer.Exit(EXIT_FAILED)


@app.command("state")
def state_(
    execution: ExecutionId,
    checkpoint: Place = None,
    change: Annotated[
        str | None,
        typer.Option("--set", metavar="JSON", help="Change it: JSON, @file, or @- for stdin."),
    ] = None,
    as_node: AsNode = None,
    replace: Replace = False,
    cell: Cell = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Show the state at a checkpoint, or change that of a paused execution.

    \b
    Examples:
      wtb exec state e0198c1
      wtb exec state e0198c1 --set '{"notes": []}' --replace
    """
    if checkpoint is not None and change is not None:
        raise typer.BadParameter("only the newest state can be changed", param_hint="--set")
    with options.connect(url) as bench:
        if change is not None:
            values = options.json_object(change, "--set")
            found = bench.update_state(execution, values, **_changing(as_node, replace, cell))
            show_moved(found, as_json)
            return
        place = None if checkpoint is None else checkpoint_of(bench, execution, checkpoint)
        view = bench.get_state(execution, place)
    answer(view, as_json, render.state(view))


def show_moved(found: Execution, as_json: bool, *, ends: bool = False) -> None:
    """Shows an execution after a command; `ends`: one that ended without a result ends the process."""
    show_state(found.info, found.view, as_json)
    if ends and found.status in (ExecutionStatus.FAILED, ExecutionStatus.CANCELLED):
        raise typer.Exit(EXIT_FAILED)


def given_state(text: str | None) -> dict[str, Any] | None:
    """What `--state` says."""
    return None if text is None else options.json_object(text, "--state")


def _changing(as_node: str | None, replace: bool, cell: int | None) -> StateOptions:
    found = StateOptions(replace=replace, cell=cell)
    if as_node is not None:
        found["as_node"] = as_node
    return found


def checkpoint_of(bench: WTBTestBench, execution: str, text: str) -> str:
    """The checkpoint that is called so, or the only one whose id begins so."""
    if len(text) >= WHOLE:
        return text
    tree = bench.branches(execution)
    ids = {step.id for branch in tree.branches for step in branch.steps}
    ids |= {step.id for step in bench.get_checkpoints(execution)}
    found = sorted(id for id in ids if id.startswith(text))
    if len(found) != 1:
        raise errors.UnknownCheckpoint(
            f"{render.many(len(found), 'checkpoint')} of execution {execution} begin with {text!r}",
            field="checkpoint_id",
            reason="ambiguous" if found else "unknown",
        )
    return found[0]
