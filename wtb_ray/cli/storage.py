"""`wtb files`: what is stored, what can go, and whether it is whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final

import typer
from rich.console import RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from wtb_ray import storage_api
from wtb_ray.cli import options
from wtb_ray.cli.file_views import printable, size
from wtb_ray.cli.render import SHORT, facts, many, moment, nothing, span, table
from wtb_ray.cli.terminal import EXIT_FAILED, answer, stderr
from wtb_ray.sdk.storage import OnCollection
from wtb_ray.states import CollectionStatus

app = typer.Typer(no_args_is_help=True, help="Stored objects: what is there, what can go.")

LOST: Final = "lost"
Execution = Annotated[str, typer.Argument(metavar="EXECUTION", help="The execution's id.")]


@app.command()
def stats(as_json: options.AsJson = False, url: options.Url = None) -> None:
    """Show the newest collections, who holds leases on objects, and what is damaged.

    \b
    Examples:
      wtb files stats
      wtb files stats --json
    """
    with options.connect(url) as bench:
        found = bench.files_stats()
    answer(found, as_json, *_stats(found))


def _stats(found: storage_api.FilesStats) -> Iterator[RenderableType]:
    yield facts(
        [
            ("trees", f"{found.commits} with {many(found.commit_files, 'file')}"),
            ("generation", str(found.generation)),
            ("damaged", str(len(found.damaged))),
        ]
    )
    yield Text()
    yield _collections(found.collections)
    if found.holds:
        yield Text()
        made = table("holder", "lease", "since", wrap=["holder"])
        for hold in found.holds:
            kind = "reads" if hold.generation is None else f"writes in {hold.generation}"
            made.add_row(printable(hold.holder), kind, moment(hold.created_at))
        yield made
    for one in found.damaged:
        yield Text(f"{one.digest} damaged: {printable(one.reason)}", style="red")


def _collections(items: list[storage_api.CollectionReport]) -> RenderableType:
    if not items:
        return nothing("collections")
    right = ["marked", "garbage", "deleted", "freed"]
    made = table("id", "status", "marked", "garbage", "deleted", "freed", "took", right=right)
    for one in items:
        took = "" if one.duration_s is None else span(one.duration_s)
        counts = (str(one.marked), str(one.garbage), str(one.swept), size(one.swept_bytes))
        made.add_row(str(one.id), str(one.status).lower(), *counts, took)
    return made


@app.command()
def collect(
    delete: Annotated[
        bool, typer.Option("--delete", help="Really delete; without it, it is only counted.")
    ] = False,
    grace: Annotated[
        float | None,
        typer.Option(
            "--grace",
            min=0,
            metavar="SECONDS",
            help="What was written later than so long ago stays; default: WTB_GC_GRACE_S.",
        ),
    ] = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Count the stored objects that nothing needs; with --delete, delete them.

    Exit codes: 0 done, 3 nothing was deleted since a tree is damaged, or writers are waited for.

    \b
    Examples:
      wtb files collect
      wtb files collect --delete
      wtb files collect --delete --grace 0
    """
    with options.connect(url) as bench, _progress("collecting") as shown:
        found = bench.collect_files(not delete, grace, shown)
    answer(found, as_json, *_report(found))
    if found.status is not CollectionStatus.DONE:
        raise typer.Exit(EXIT_FAILED)


def _report(found: storage_api.CollectionReport) -> Iterator[RenderableType]:
    deleted = f"{many(found.swept, 'object')}, {size(found.swept_bytes)}"
    lines = [
        ("stored", f"{many(found.listed, 'object')}, {size(found.listed_bytes)}"),
        ("needed", f"{found.marked}, {found.leased} of them for leases alone"),
        ("garbage", f"{many(found.garbage, 'object')}, {size(found.garbage_bytes)}"),
        ("young", str(found.young)),
    ]
    if found.dry_run:
        lines.append(("deleted", "nothing: --delete does it"))
    else:
        lines += [("deleted", deleted), ("needed again", str(found.pardoned))]
    yield facts(lines)
    if found.waits_for:
        names = ", ".join(printable(name) for name in found.waits_for)
        yield Text(f"it waits for {names}, and goes on by itself", style="yellow")
    for digest, reason in found.damaged.items():
        yield Text(f"{digest} cannot be read: {printable(reason)}", style="red")
    if found.error:
        yield Text(printable(found.error), style="red")


@contextmanager
def _progress(title: str) -> Iterator[OnCollection | None]:
    console = stderr()
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=None)

        def update(now: storage_api.CollectionReport) -> None:
            stage = str(now.status).lower()
            bar.update(task, description=stage, total=1.0, completed=now.done)

        yield update


@app.command()
def rehash(
    sample: Annotated[
        int | None,
        typer.Option("--sample", min=1, metavar="N", help="Only so many, chosen at random."),
    ] = None,
    digest: Annotated[
        list[str] | None,
        typer.Option("--digest", metavar="SHA256", help="Only this object; repeatable."),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Replace damaged objects from other copies.")
    ] = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Read stored objects and check them against their digests.

    Exit codes: 0 all are whole, or whole again; 3 some are damaged.

    \b
    Examples:
      wtb files rehash --sample 1000
      wtb files rehash --repair
    """
    with options.connect(url) as bench, stderr().status("reading"):
        found = bench.rehash_files(sample, digest, repair)
    answer(found, as_json, *_rehashed(found))
    if found.damaged.keys() - found.repaired.keys():
        raise typer.Exit(EXIT_FAILED)


def _rehashed(found: storage_api.RehashReport) -> Iterator[RenderableType]:
    yield Text(f"{many(found.checked, 'object')}, {size(found.bytes)} checked")
    for digest, reason in found.damaged.items():
        source = found.repaired.get(digest)
        if source is None:
            yield Text(f"{digest} damaged: {printable(reason)}", style="red")
        else:
            yield Text(f"{digest} repaired from {printable(source)}", style="green")


@app.command()
def commits(execution: Execution, as_json: options.AsJson = False, url: options.Url = None) -> None:
    """List the file trees of an execution's checkpoints, newest first.

    \b
    Examples:
      wtb files commits e0198c1
    """
    with options.connect(url) as bench:
        found = bench.commits(execution)
    answer(found, as_json, _commits(found))


def _commits(found: list[storage_api.CommitEntry]) -> RenderableType:
    if not found:
        return nothing("file trees")
    right = ["step", "files", "bytes"]
    made = table("checkpoint", "step", "kept", "tree", "files", "bytes", "at", right=right)
    for one in found:
        weight = (LOST, LOST) if one.bytes is None else (str(one.files), size(one.bytes))
        place = (one.checkpoint_id, str(one.step), one.reason, one.manifest[:SHORT])
        made.add_row(*place, *weight, moment(one.created_at))
    return made
