"""`wtb exec`: time travel: back, forward, forks, and other implementations."""

from typing import Annotated, Any, Literal

import typer

from wtb_ray.cli import history_views, options
from wtb_ray.cli.executions import ExecutionId
from wtb_ray.cli.steering import (
    AsNode,
    Cell,
    Place,
    Replace,
    State,
    checkpoint_of,
    given_state,
    show_moved,
)
from wtb_ray.cli.terminal import answer
from wtb_ray.sdk import steering

app = typer.Typer()

Node = Annotated[
    str | None,
    typer.Option("--node", metavar="NODE", help="Instead: around the newest run of this node."),
]
Where = Annotated[
    Literal["entry", "exit"],
    typer.Option("--where", help="With --node: right before it, or right after it."),
]
AsItStands = Annotated[
    bool,
    typer.Option("--as-it-stands", help="Keep what tasks of the next step had finished there."),
]
Variant = Annotated[
    list[str] | None, typer.Option("--variant", metavar="VARIANT", help="node=variant; repeatable.")
]
Version = Annotated[
    str | None, typer.Option("--version", metavar="DIGEST", help="Another version's digest.")
]


@app.command()
def reset(
    execution: ExecutionId,
    cell: Cell = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Put an execution back to its input, in a clean workspace; its history stays."""
    with options.connect(url) as bench:
        found = bench.reset(execution, cell)
    show_moved(found, as_json)


@app.command()
def rollback(
    execution: ExecutionId,
    checkpoint: Place = None,
    node: Node = None,
    where: Where = "exit",
    pause: Annotated[bool, typer.Option("--pause", help="Pause it first where it runs.")] = False,
    as_it_stands: AsItStands = False,
    cell: Cell = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Put an execution back, or forward again, to a checkpoint, with its files; it is paused then.

    \b
    Examples:
      wtb exec rollback e0198c1 1f0c8a12
      wtb exec rollback e0198c1 --node retrieve --where entry
    """
    if (checkpoint is None) == (node is None):
        raise typer.BadParameter("give a checkpoint, or --node", param_hint="CHECKPOINT")
    mode: Literal["clean", "as_it_stands"] = "as_it_stands" if as_it_stands else "clean"
    with options.connect(url) as bench:
        if node is not None:
            found = bench.rollback_to_node(
                execution, node, where, pause=pause, mode=mode, cell=cell
            )
        else:
            place = checkpoint_of(bench, execution, checkpoint or "")
            found = bench.rollback(execution, place, pause=pause, mode=mode, cell=cell)
    show_moved(found, as_json)


@app.command()
def fork(
    execution: ExecutionId,
    checkpoint: Place = None,
    node: Node = None,
    where: Where = "exit",
    state: State = None,
    as_node: AsNode = None,
    replace: Replace = False,
    variant: Variant = None,
    version: Version = None,
    breakpoint_: Annotated[
        list[str] | None,
        typer.Option("--breakpoint", metavar="NODE", help="Where the fork pauses; repeatable."),
    ] = None,
    count: Annotated[
        int, typer.Option("--count", min=1, max=100, metavar="N", help="How many to make.")
    ] = 1,
    run: Annotated[bool, typer.Option("--run", help="Let them run at once.")] = False,
    as_it_stands: AsItStands = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Make executions that go on from a checkpoint, with other state, variants or version.

    \b
    Examples:
      wtb exec fork e0198c1 --variant answer=long --run
      wtb exec fork e0198c1 1f0c8a12 --state '{"temperature": 0}' --count 10 --run
    """
    request: dict[str, Any] = {
        "node": node,
        "where": where,
        "state": given_state(state),
        "as_node": as_node,
        "replace": replace,
        "variant_config": options.binding(variant or []),
        "version": version,
        "breakpoints": breakpoint_,
        "count": count,
        "run": run,
        "mode": "as_it_stands" if as_it_stands else "clean",
    }
    with options.connect(url) as bench:
        if checkpoint is not None:
            request["checkpoint_id"] = checkpoint_of(bench, execution, checkpoint)
        made = bench.flow(steering.forked(execution, **request))
    answer(made, as_json, history_views.executions(made.executions))


@app.command()
def swap(
    execution: ExecutionId,
    variants: Annotated[
        list[str] | None, typer.Argument(metavar="[NODE=VARIANT]...", help="What to swap.")
    ] = None,
    version: Version = None,
    cell: Cell = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Give an execution other implementations from its next super-step on.

    One that runs is paused for it and goes on.

    \b
    Examples:
      wtb exec swap e0198c1 answer=long
      wtb exec swap e0198c1 --version 5c1f…
    """
    binding = options.binding(variants or [], "NODE=VARIANT")
    if not binding and version is None:
        raise typer.BadParameter("give node=variant, or --version", param_hint="NODE=VARIANT")
    with options.connect(url) as bench:
        found = bench.swap(execution, variant_config=binding, version=version, cell=cell)
    show_moved(found, as_json)
