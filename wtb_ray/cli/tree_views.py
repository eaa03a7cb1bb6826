"""The tree of a batch: what ran for how many cells, drawn so that wide, long and deep ones stay readable."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from wtb_ray.batch_tree import BatchTree, Label, Reuse, TreeNode
from wtb_ray.cli.file_views import printable
from wtb_ray.cli.render import counts, duration, many, nothing

WIDEST: Final = 12
"""So many ways of a fork are drawn."""
LONGEST: Final = 9
"""So many super-steps of a chain are named, and so many places where cells ended on it."""
DEEPEST: Final = 8
"""So many forks are drawn below each other."""


def tree(found: BatchTree, *, everything: bool = False) -> RenderableType:
    """What sharing came to, and below it the ways of the cells.

    Super-steps that follow each other without a fork are one line, with their sums; where cells
    ended on the way, another one begins. `everything` draws what is wide, long or deep whole.
    """
    if not found.cells:
        return nothing("cells that have begun")
    return Group(_saving(found.reuse), Text(), _Drawing(found, everything).drawn())


def _saving(reuse: Reuse) -> Text:
    """The sum, as one sentence."""
    made = f"{many(reuse.node_runs, 'node run')}, {reuse.served:,} without sharing"
    if reuse.served <= reuse.node_runs:
        return Text(f"{made}: nothing saved")
    saved = [f"{100 * (reuse.served - reuse.node_runs) / reuse.served:.1f} % saved"]
    if (time := reuse.served_ms - reuse.duration_ms) > 0:
        saved.append(duration(time))
    saved += _amounts(
        {key: amount - reuse.usage.get(key, 0) for key, amount in reuse.served_usage.items()}
    )
    return Text(f"{made}: {', '.join(saved)}", "green")


class _Drawing:
    """One drawing: what follows what."""

    def __init__(self, found: BatchTree, everything: bool) -> None:
        self._found, self._nodes, self._everything = found, found.nodes, everything
        self._following: dict[int, list[int]] = {}
        for place, node in enumerate(found.nodes):
            if node.parent is not None:
                self._following.setdefault(node.parent, []).append(place)

    def drawn(self) -> Tree:
        cells, executions = self._found.cells, self._found.executions
        title = Text.assemble(
            (self._found.batch_id, "bold"),
            f"  {many(cells, 'cell')} in {many(executions, 'execution')}",
        )
        root = Tree(_with_ends(title, self._nodes[0].ended))
        waiting = [(0, 0, root)]
        while waiting:
            place, depth, below = waiting.pop()
            following = self._following.get(place, [])
            shown = self._cut(following, WIDEST if depth < DEEPEST else 0)
            for child in shown:
                last, line = self._chain(child)
                waiting.append((last, depth + 1, below.add(line)))
            if left := [self._nodes[child] for child in following[len(shown) :]]:
                served = many(sum(node.cells for node in left), "cell")
                below.add(Text(f"and {len(left):,} more for {served}; --all draws them", "dim"))
        return root

    def _cut(self, places: list[int], most: int) -> list[int]:
        """Those that are drawn; that a single one is left out takes as much room as the one."""
        whole = self._everything or len(places) <= (most + 1 if most else 0)
        return places if whole else places[:most]

    def _chain(self, place: int) -> tuple[int, Text]:
        """The last super-step before the next fork, and all up to it in words."""
        parts: list[list[TreeNode]] = [[]]
        while True:
            node = self._nodes[place]
            parts[-1].append(node)
            following = self._following.get(place, ())
            if len(following) != 1:
                break
            if node.ended:
                parts.append([])
            (place,) = following
        lines = [self._line(part) for part in parts]
        return place, Text("\n→ ").join(self._middle_cut(lines))

    def _line(self, part: Sequence[TreeNode]) -> Text:
        """Super-steps, their node runs, cells, reuse, time and usage, and who ended there."""
        names = self._middle_cut([Text(_named(node.nodes), "bold") for node in part])
        runs = sum(node.runs * len(node.nodes) for node in part)
        served = sum(node.cells * len(node.nodes) for node in part)
        usage: Counter[str] = Counter()
        for node in part:
            usage.update(node.usage)
        line = Text(" → ").join(names)
        line.append(f"  {many(runs, 'run')} for {many(part[0].cells, 'cell')}")
        if served > runs:
            line.append(f"  x{served / runs:.1f}", style="green")
        spent = [duration(sum(node.duration_ms for node in part)), *_amounts(usage)]
        line.append(f"  {'  '.join(spent)}", style="dim")
        return _with_ends(line, part[-1].ended)

    def _middle_cut(self, texts: list[Text]) -> list[Text]:
        if self._everything or len(texts) <= LONGEST:
            return texts
        half = LONGEST // 2
        return [*texts[:half], Text(f"{len(texts) - 2 * half:,} more", "dim"), *texts[-half:]]


def _named(nodes: Label) -> str:
    """`left + right`, and `worker ×3` for one that ran three times in the same super-step."""
    groups = ((name, len(list(same))) for name, same in groupby(nodes))
    return printable(" + ".join(n if times == 1 else f"{n} ×{times}" for n, times in groups))


def _with_ends(line: Text, ended: Mapping[str, int]) -> Text:
    return line.append("  ").append(counts(dict(ended))) if ended else line


def _amounts(usage: Mapping[str, float]) -> list[str]:
    return [f"{printable(key)} {amount:,.6g}" for key, amount in usage.items() if amount]
