"""Tables of files, changes and trash; names and texts of users cannot reach the terminal's controls."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from rich.console import RenderableType
from rich.text import Text

from wtb_ray import api
from wtb_ray.cli.render import SHORT, facts, flat, many, moment, nothing, table
from wtb_ray.file_entries import FileChange, FileEntry, TrashedFile

SIGNS: Final = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}
LINES: Final = {"+": "green", "-": "red", "@": "cyan"}


def size(count: int) -> str:
    """A number of bytes in the unit that reads best."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def printable(text: str) -> str:
    """The text with everything escaped that a terminal might obey."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def files(items: Sequence[FileEntry]) -> RenderableType:
    if not items:
        return nothing("files")
    made = table("path", "size", "mode", "digest", right=["size"], wrap=["path"])
    for item in items:
        made.add_row(_name(item), size(item.size), f"{item.mode:03o}", (item.digest or "")[:SHORT])
    return made


def _name(item: FileEntry) -> Text:
    path = printable(item.path)
    if item.kind == "dir":
        return Text(f"{path}/", "bold")
    if item.kind == "link":
        return Text.assemble(path, (f" → {printable(item.target or '')}", "dim"))
    return Text(path)


def diff(page: api.FilesDiff) -> Iterator[RenderableType]:
    """What was compared, what changed, and how the texts did."""
    yield facts(
        [
            ("from", _place(page.from_execution, page.from_checkpoint)),
            ("to", _place(page.to_execution, page.to_checkpoint)),
        ]
    )
    yield Text()
    if page.state:
        yield state(page.state)
    if page.items or not page.state:
        yield changes(page.items)
    for item in page.items:
        if item.diff:
            yield Text()
            yield _lines(item.diff)


def state(items: Mapping[str, api.StateChange]) -> RenderableType:
    """Which channels changed, and how."""
    made = table("", "channel", "before", "after", wrap=["channel", "before", "after"])
    for channel, item in items.items():
        sign, style = SIGNS[item.change]
        before = "" if item.change == "added" else flat(item.before)
        after = "" if item.change == "removed" else flat(item.after)
        made.add_row(Text(sign, style), printable(channel), printable(before), printable(after))
    return made


def changes(items: Sequence[FileChange]) -> RenderableType:
    """Which files changed, and their sizes."""
    if not items:
        return nothing("changes")
    made = table("", "path", "size", wrap=["path"])
    for item in items:
        sign, style = SIGNS[item.change]
        made.add_row(Text(sign, style), _name(_entry(item)), _sizes(item))
    return made


def _entry(change: FileChange) -> FileEntry:
    entry = change.after or change.before
    assert entry is not None
    return entry


def _place(execution: str, checkpoint: str | None) -> str:
    return f"{execution} at {checkpoint}" if checkpoint else f"{execution}: nothing yet"


def _sizes(item: FileChange) -> str:
    sides = [side for side in (item.before, item.after) if side is not None]
    if len({(side.kind, side.size) for side in sides}) < 2:
        return size(sides[0].size)
    return " → ".join(size(side.size) for side in sides)


def _lines(diff: str) -> Text:
    lines = [line.replace("\t", "    ") for line in diff.split("\n") if line]
    return Text("\n").join(Text(printable(line), LINES.get(line[0], "")) for line in lines)


def trash(items: Sequence[TrashedFile]) -> RenderableType:
    if not items:
        return nothing("files in the trash")
    made = table(
        "restore", "path", "size", "reason", "displaced", right=["restore", "size"], wrap=["path"]
    )
    for item in items:
        made.add_row(
            str(item.restore_id),
            _name(item.entry),
            size(item.entry.size),
            item.reason,
            moment(item.displaced_at),
        )
    return made


def restored(back: api.RestoredTrash) -> RenderableType:
    return facts(
        [
            ("brought back", many(len(back.paths), "path")),
            ("from restore", str(back.restore_id)),
            ("execution", back.execution_id),
            ("checkpoint", back.checkpoint_id),
        ]
    )
