"""`wtb exec files|diff|trash`: the files of executions, what changed, and what restores displaced."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from wtb_ray.cli import file_views, options, render
from wtb_ray.cli.terminal import EXIT_ERROR, answer, say
from wtb_ray.sdk import WTBTestBench, calls, flows

app = typer.Typer(
    no_args_is_help=True, help="Look into executions, pause and change them, go back in them."
)

ExecutionId = Annotated[str, typer.Argument(metavar="ID", help="Id of an execution.")]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint", metavar="CHECKPOINT", help="Id of a checkpoint; default: the newest files."
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PLACE",
        help="Write a file there, or files into that folder; - is stdout.",
    ),
]
FilePath = Annotated[
    str | None, typer.Argument(metavar="[PATH]", help="A file or directory of the workspace.")
]
Prefix = Annotated[
    str, typer.Option("--prefix", metavar="PATH", help="Only what is below this directory.")
]


@app.command()
def files(
    execution: ExecutionId,
    path: FilePath = None,
    checkpoint: Checkpoint = None,
    prefix: Prefix = "",
    output: Output = None,
    limit: options.Limit = 100,
    after: options.After = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """List the files that a checkpoint holds, or download them.

    With a PATH of a file and without --output, its content goes to stdout.

    \b
    Examples:
      wtb exec files e0198c1 --prefix output
      wtb exec files e0198c1 output/report.md
      wtb exec files e0198c1 output/model.bin --output model.bin
      wtb exec files e0198c1 output --checkpoint 1f0a --output ./before
    """
    if path is not None and prefix:
        raise typer.BadParameter("PATH says it already", param_hint="--prefix")
    place = path if path is not None else prefix
    with options.connect(url) as bench:
        if output is None and path is None:
            call = calls.files(execution, after, limit, checkpoint=checkpoint, prefix=prefix)
            page = bench.send(call)
            answer(page, as_json, file_views.files(page.items), render.more(page))
        elif _is_file(bench, execution, place, checkpoint):
            _download_file(bench, execution, place, checkpoint, output or "-")
        elif output is None or output == "-":
            raise typer.BadParameter(
                f"{place or 'the workspace'} is not a single file: say where to with --output FOLDER",
                param_hint="--output",
            )
        else:
            _download_folder(bench, execution, place, checkpoint, Path(output))


def _is_file(bench: WTBTestBench, execution: str, path: str, checkpoint: str | None) -> bool:
    """Whether the path is a file: a directory has other paths below it, or nothing."""
    if not path.strip("/"):
        return False
    found = bench.send(calls.files(execution, None, 1, checkpoint=checkpoint, prefix=path)).items
    return bool(found) and found[0].kind == "file" and found[0].path == path.strip("/")


def _download_file(
    bench: WTBTestBench, execution: str, path: str, checkpoint: str | None, output: str
) -> None:
    path = path.strip("/")
    if output == "-":
        typer.echo(bench.read_file(execution, path, checkpoint), nl=False)
        return
    place = Path(output)
    if place.is_dir():
        place /= path.rpartition("/")[2]
    with _disk_errors():
        bench.flow(flows.download_file(execution, path, checkpoint, place))
    say(f"wrote {place}")


def _download_folder(
    bench: WTBTestBench, execution: str, path: str, checkpoint: str | None, folder: Path
) -> None:
    with _disk_errors():
        made = bench.download_files(execution, folder, checkpoint, path)
    say(f"wrote {render.many(len(made), 'path')} below {folder}")


@contextmanager
def _disk_errors() -> Iterator[None]:
    """A disk that does not take a file is an error on one line too."""
    try:
        yield
    except OSError as e:
        say(f"error: {e.strerror}: {e.filename}", style="red")
        raise typer.Exit(EXIT_ERROR) from e


@app.command()
def diff(
    execution: ExecutionId,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="CHECKPOINT",
            help="Default: the files before; with --other, the newest of ID.",
        ),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="CHECKPOINT", help="Default: the newest files.")
    ] = None,
    other: Annotated[
        str | None,
        typer.Option(
            "--other", metavar="ID", help="Another execution, whose checkpoint --to is then."
        ),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Also show how texts changed, line by line.")
    ] = False,
    state: Annotated[
        bool, typer.Option("--state", help="Leave the files out: any checkpoints will do.")
    ] = False,
    limit: options.Limit = 100,
    after: options.After = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Show how state and files changed between two checkpoints of one or two executions.

    \b
    Examples:
      wtb exec diff e0198c1
      wtb exec diff e0198c1 --from 1f0a --to 1f0b --text
      wtb exec diff e0198c1 --other e0198c2
    """
    with options.connect(url) as bench:
        call = calls.diff(
            execution,
            after,
            limit,
            from_checkpoint=from_,
            to_checkpoint=to,
            other=other,
            text=text,
            state=state,
        )
        page = bench.send(call)
    answer(page, as_json, *file_views.diff(page), render.more(page))


@app.command()
def trash(
    execution: ExecutionId,
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]...", help="With --restore: only these files or directories."
        ),
    ] = None,
    restore: Annotated[
        int | None,
        typer.Option(
            "--restore", min=1, metavar="RESTORE", help="Bring back what this restore displaced."
        ),
    ] = None,
    limit: options.Limit = 100,
    after: options.After = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """List the files that restores displaced, or bring them back.

    An execution gets them back while it rests; they are there when it goes on.

    \b
    Examples:
      wtb exec trash e0198c1
      wtb exec trash e0198c1 --restore 7
      wtb exec trash e0198c1 --restore 7 output/report.md notes
    """
    if paths and restore is None:
        raise typer.BadParameter("PATH needs it", param_hint="--restore")
    with options.connect(url) as bench:
        if restore is None:
            page = bench.send(calls.trash(execution, after, limit))
            answer(page, as_json, file_views.trash(page.items), render.more(page))
            return
        back = bench.restore_trash(execution, restore, paths or None)
    answer(back, as_json, file_views.restored(back))
