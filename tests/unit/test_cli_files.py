"""How files, changes and trash look in a terminal."""

from io import StringIO

import pytest
from rich.console import Console, RenderableType

from wtb_ray import api
from wtb_ray.cli import file_views
from wtb_ray.file_entries import FileChange, FileEntry


def shown(*views: RenderableType) -> str:
    console = Console(file=StringIO(), width=120, highlight=False, markup=False)
    with console.capture() as captured:
        for view in views:
            console.print(view)
    return captured.get()


def entry(path: str, size: int = 1, kind: str = "file") -> FileEntry:
    return FileEntry(path=path, kind=kind, size=size, mode=0o644)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (102_400, "100 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (2 << 40, "2.0 TiB"),
    ],
)
def test_sizes_are_in_the_unit_that_reads_best(count: int, text: str) -> None:
    assert file_views.size(count) == text


def test_names_cannot_reach_the_terminals_controls() -> None:
    text = shown(file_views.files([entry("a\x1b]0;title\x07\r\nb\u202e[bold]")]))
    assert r"a\x1b]0;title\x07\r\nb\u202e[bold]" in text


def test_texts_cannot_either() -> None:
    change = FileChange(
        path="a",
        change="changed",
        before=entry("a"),
        after=entry("a", 3),
        diff="@@\n-\x1b[2J\n+\tx\n",
    )
    page = api.FilesDiff(
        items=[change],
        from_execution="e1",
        from_checkpoint=None,
        to_execution="e1",
        to_checkpoint="c1",
    )
    text = shown(*file_views.diff(page))
    assert "\x1b" not in text
    assert "-\\x1b[2J\n+    x\n" in text
    assert "e1: nothing yet" in text
    assert "1 B → 3 B" in text


def test_nothing_is_said_to_be_nothing() -> None:
    assert shown(file_views.files([])) == "no files\n"
    assert shown(file_views.trash([])) == "no files in the trash\n"
