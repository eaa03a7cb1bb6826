"""`wtb batch` and `wtb leaderboard`: run a matrix of variants on cases, and see what came out."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from wtb_ray import api, model
from wtb_ray.cli import board, options, render, tree_views
from wtb_ray.cli.progress import batch_progress
from wtb_ray.cli.terminal import EXIT_FAILED, EXIT_INTERRUPTED, answer, program, say, stdout
from wtb_ray.sdk import Batch, calls
from wtb_ray.sdk.flows import BatchOptions
from wtb_ray.states import BatchStatus, CellStatus

app = typer.Typer(no_args_is_help=True, help="Run matrices of variants on test cases.")
boards = typer.Typer()

BatchId = Annotated[str, typer.Argument(metavar="BATCH", help="Id of a batch.")]


Project = Annotated[str, typer.Argument(metavar="PROJECT", help="Name of a registered project.")]
Cases = Annotated[
    Path,
    typer.Option(
        "--cases",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Cases: a .jsonl, .csv or .parquet file.",
    ),
]
Variants = Annotated[
    list[str] | None,
    typer.Option(
        "--variants",
        metavar="ROW",
        help="A row of the matrix: node=variant,node=variant, or JSON, or @file; repeatable.",
    ),
]
Grid = Annotated[
    list[str] | None,
    typer.Option(
        "--grid", metavar="AXIS", help="node=variant,variant: all combinations; repeatable."
    ),
]
Scorers = Annotated[
    list[str] | None,
    typer.Option("--scorer", metavar="SCORER", help="name or name:{JSON arguments}; repeatable."),
]
Repetitions = Annotated[
    int, typer.Option("--repetitions", min=1, metavar="N", help="How often each case is run.")
]
NodeErrors = Annotated[
    Literal["zero", "exclude"],
    typer.Option("--node-errors", help="Whether a failed cell scores 0 or is left out."),
]
ShareNothing = Annotated[
    bool,
    typer.Option("--share-nothing", help="Run every cell from its beginning, alone."),
]
Interrupts = Annotated[
    Literal["fail", "wait"],
    typer.Option("--interrupts", help="Whether a cell fails or waits whose case has no answer."),
]
Version = Annotated[
    str | None,
    typer.Option("--version", metavar="DIGEST", help="A version's digest; default: the newest."),
]
Deadline = Annotated[
    float | None,
    typer.Option(
        "--deadline", metavar="S", help="Seconds from a cell's first start, after which it fails."
    ),
]
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="NAME=AMOUNT",
        help="The most it may use: cells, node_runs, tokens, cost or wall_time_s; repeatable.",
    ),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Start it and return at once.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 3 when a cell failed.")]


@app.command()
def run(
    project: Project,
    cases: Cases,
    variants: Variants = None,
    grid: Grid = None,
    scorer: Scorers = None,
    repetitions: Repetitions = 1,
    node_errors: NodeErrors = "zero",
    share_nothing: ShareNothing = False,
    interrupts: Interrupts = "fail",
    budget: Budgets = None,
    version: Version = None,
    deadline: Deadline = None,
    no_wait: NoWait = False,
    strict: Strict = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Run all variants on all cases, and print the leaderboard.

    Ends with exit code 3 when the batch fails or is stopped, with --strict also when one of its
    cells failed.

    \b
    Examples:
      wtb batch run rag --cases cases.jsonl --scorer exact:'{"field": "answer"}' \\
        --grid retrieve=bm25,tfidf --grid rerank=overlap,name
      wtb batch run rag --cases cases.csv --variants _name=baseline --variants answer=long
    """
    rows = options.matrix(variants or [], grid or [])
    specs = [options.scorer(text) for text in scorer or []]
    more = BatchOptions(
        node_errors=node_errors, share_prefix=not share_nothing, interrupts=interrupts
    )
    if budget:
        more["budget"] = options.budget(budget)
    if version is not None:
        more["version"] = version
    if deadline is not None:
        more["deadline_s"] = deadline
    with options.connect(url) as bench:
        batch = bench.run_batch_test(project, rows, cases, specs, repetitions, wait=False, **more)
        if no_wait:
            say(f"started; see how far it is with: {program()} batch status {batch.id}")
            answer(batch.info, as_json, render.batch(batch.info))
            return
        watch(batch, project)
        _show(batch.info, bench.leaderboard(batch), as_json)
    if not passed(batch.info, strict):
        raise typer.Exit(EXIT_FAILED)


def _show(batch: model.Batch, found: api.Leaderboard, as_json: bool) -> None:
    table = board.leaderboard(found, stdout().width)
    both = {"batch": batch, "leaderboard": found}
    answer(both, as_json, render.batch(batch), Text(), table)


def watch(batch: Batch, title: str) -> None:
    """Waits for the end of a batch under a progress bar."""
    try:
        with batch_progress(title) as progress:
            batch.wait(progress=progress)
    except KeyboardInterrupt:
        say(
            f"interrupted; the batch goes on: {program()} batch status {batch.id},"
            f" {program()} batch stop {batch.id}"
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None


def passed(batch: model.Batch, strict: bool) -> bool:
    """Whether a batch is what was wanted: completed, with `strict` also without a failed cell."""
    failed = batch.counts.get(CellStatus.FAILED, 0)
    return batch.status == BatchStatus.COMPLETED and not (strict and failed)


@app.command()
def status(batch: BatchId, as_json: options.AsJson = False, url: options.Url = None) -> None:
    """Show how far a batch is."""
    with options.connect(url) as bench:
        found = bench.send(calls.batch(batch))
        progress = bench.send(calls.progress(batch))
    answer({"batch": found, "progress": progress}, as_json, render.batch(found, progress))


@app.command("list")
def list_batches(
    project: Annotated[
        str | None, typer.Option("--project", metavar="PROJECT", help="Only of this project.")
    ] = None,
    limit: options.Limit = 20,
    after: options.After = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """List batches, newest first."""
    with options.connect(url) as bench:
        page = bench.send(calls.batches(after, limit, project=project))
    answer(page, as_json, render.batches(page.items), render.more(page))


@app.command()
def results(
    batch: BatchId,
    status: Annotated[
        CellStatus | None,
        typer.Option("--status", case_sensitive=False, help="Only cells in this status."),
    ] = None,
    limit: options.Limit = 100,
    after: options.After = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """List the cells of a batch with scores and errors.

    \b
    Examples:
      wtb batch results b0198c1 --status failed
      wtb batch results b0198c1 --limit 500 --json | jq '.items[].scores'
    """
    with options.connect(url) as bench:
        page = bench.send(calls.results(batch, after, limit, status=status))
    table = render.results(page.items, stdout().width)
    answer(page, as_json, table, render.more(page))


@app.command()
def tree(
    batch: BatchId,
    case: Annotated[
        str | None, typer.Option("--case", metavar="ID", help="Only the cells of this case.")
    ] = None,
    repetition: Annotated[
        int | None,
        typer.Option("--repetition", min=0, metavar="N", help="Only this one, counted from 0."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Draw all of it, however wide and long it is.")
    ] = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Draw what a batch ran for how many of its cells, and what sharing spared.

    \b
    Examples:
      wtb batch tree b0198c1
      wtb batch tree b0198c1 --case c7 --repetition 0 --all
    """
    with options.connect(url) as bench:
        found = bench.batch_tree(batch, case, repetition)
    answer(found, as_json, tree_views.tree(found, everything=everything))


@app.command()
def stop(
    batch: BatchId,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Why, for the event log.")
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option("--variant", metavar="NAME", help="Stop this variant alone."),
    ] = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Stop a batch, or one of its variants.

    What waits never starts, what runs ends at its next step.
    """
    with options.connect(url) as bench:
        found = bench.send(calls.stop_batch(batch, reason, variant))
    answer(found, as_json, render.batch(found))


@app.command()
def pause(batch: BatchId, as_json: options.AsJson = False, url: options.Url = None) -> None:
    """Pause a batch.

    Nothing more of it starts; what runs is given back after its present step.
    """
    with options.connect(url) as bench:
        found = bench.pause_batch(batch)
    answer(found, as_json, render.batch(found))


@app.command()
def resume(batch: BatchId, as_json: options.AsJson = False, url: options.Url = None) -> None:
    """Go on with a paused batch."""
    with options.connect(url) as bench:
        found = bench.resume_batch(batch)
    answer(found, as_json, render.batch(found))


@app.command()
def rerun(
    batch: BatchId,
    status: Annotated[
        list[str] | None,
        typer.Option(
            "--status",
            metavar="STATUS",
            help="FAILED, CANCELLED or EXCLUDED; repeatable, default: the first two.",
        ),
    ] = None,
    variant: Annotated[
        str | None, typer.Option("--variant", metavar="NAME", help="Only of this variant.")
    ] = None,
    case: Annotated[
        str | None, typer.Option("--case", metavar="ID", help="Only of this case.")
    ] = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Run cells again that have failed or did not run.

    A batch that has ended goes on. What is done does not run again. EXCLUDED are those that a budget
    kept from beginning. While a budget is used up nothing runs again: raise it first.
    """
    statuses = [one.upper() for one in status or ("FAILED", "CANCELLED")]
    with options.connect(url) as bench:
        found = bench.rerun_batch(batch, statuses, variant, case)
    answer(found, as_json, render.batch(found))


@app.command()
def budget(
    batch: BatchId,
    amounts: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=AMOUNT...",
            help="cells, node_runs, tokens, cost or wall_time_s; `none` lifts one.",
        ),
    ],
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Change the budgets of a batch.

    Cells that were excluded stay so until they run again.

    \b
    Examples:
      wtb batch budget b0198c1 cost=20 tokens=none
      wtb batch rerun b0198c1 --status excluded
    """
    wanted = options.budget_changes(amounts)
    with options.connect(url) as bench:
        found = bench.set_budget(batch, **wanted)
    answer(found, as_json, render.batch(found))


@app.command()
def extend(
    batch: BatchId,
    cases: Annotated[
        Path | None,
        typer.Option("--cases", metavar="FILE", exists=True, dir_okay=False, help="More cases."),
    ] = None,
    variants: Variants = None,
    grid: Grid = None,
    repetitions: Annotated[
        int | None,
        typer.Option("--repetitions", min=1, metavar="N", help="How many there are to be in all."),
    ] = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Add cases, variants or repetitions to a batch.

    Only cells that are not there yet run; a batch that has ended goes on.
    """
    rows = options.matrix(variants or [], grid or []) if variants or grid else []
    with options.connect(url) as bench:
        found = bench.extend_batch(batch, cases or (), rows, repetitions)
    answer(found, as_json, render.batch(found))


@boards.command()
def leaderboard(batch: BatchId, as_json: options.AsJson = False, url: options.Url = None) -> None:
    """Show which variants of a batch are better.

    Every metric with its 95 % interval over cases, node errors, and latency. A batch that has not
    ended is ranked by the cells that have.
    """
    with options.connect(url) as bench:
        found = bench.leaderboard(batch)
    show_board(found, as_json)


def show_board(found: api.Leaderboard, as_json: bool = False) -> None:
    """The table and the bars of a leaderboard."""
    console = stdout()
    unicode = console.encoding.startswith("utf")
    answer(
        found,
        as_json,
        board.leaderboard(found, console.width),
        Text(),
        board.plot(found, console.width, unicode=unicode),
    )
