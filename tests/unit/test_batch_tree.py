"""The tree of a batch from its rows: what ran, for how many cells, and how it is drawn."""

import io
import json
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from wtb_ray.batch_tree import BatchTree, BranchRow, StepRow, TreeNode, WayRow, tree
from wtb_ray.cli import tree_views


def step(thread: str, number: int, *nodes: str, ms: float = 100.0, **usage: float) -> StepRow:
    runs = [{"name": name, "usage": usage if i == 0 else {}} for i, name in enumerate(nodes)]
    return StepRow(thread, number, json.dumps(runs), ms)


def way(thread: str, *, done: int = 1, **binding: str) -> WayRow:
    return WayRow(thread, binding, {"DONE": done})


def start(*threads: str) -> list[BranchRow]:
    return [BranchRow(thread, None, None) for thread in threads]


def path(found: BatchTree, node: TreeNode) -> list[str]:
    """The way to a node."""
    names: list[str] = []
    while node.parent is not None:
        names.insert(0, "+".join(node.nodes))
        node = found.nodes[node.parent]
    return names


def ends(found: BatchTree) -> dict[str, dict[str, int]]:
    return {" ".join(path(found, node)): node.ended for node in found.nodes if node.ended}


FORKED = (
    [
        WayRow("e1.0", {}, {"DONE": 2}),
        WayRow("e2.0", {"last": "a"}, {"DONE": 1, "FAILED": 1}),
        WayRow("e3.0", {"last": "b"}, {"RUNNING": 2}),
        way("e4.0", two="x"),
    ],
    [
        *start("e1.0"),
        BranchRow("e2.0", "e1.0", 2),
        BranchRow("e3.0", "e2.0", -2),
        BranchRow("e4.0", "e1.0", 1),
    ],
    [
        step("e1.0", 1, "one", tokens=100),
        step("e1.0", 2, "two", "worker", "worker", cost=0.5),
        step("e1.0", 3, "last", tokens=20),
        step("e2.0", 3, "last", tokens=20),
        step("e3.0", 3, "last", tokens=30),
        step("e4.0", 2, "two", "worker", "worker", ms=1000),
    ],
)


def test_a_fork_stands_below_what_was_shared_before_it() -> None:
    found = tree("b", *FORKED)
    assert [(n.parent, n.nodes, n.runs, n.cells) for n in found.nodes] == [
        (None, (), 0, 7),
        (0, ("one",), 1, 7),
        (1, ("two", "worker", "worker"), 1, 6),
        (2, ("last",), 1, 2),
        (2, ("last=a",), 1, 2),
        (2, ("last=b",), 1, 2),
        (1, ("two=x", "worker", "worker"), 1, 1),
    ]
    assert ends(found) == {
        "one two+worker+worker last": {"DONE": 2},
        "one two+worker+worker last=a": {"DONE": 1, "FAILED": 1},
        "one two+worker+worker last=b": {"RUNNING": 2},
        "one two=x+worker+worker": {"DONE": 1},
    }


def test_what_was_used_is_summed_as_it_was_and_as_it_would_have_been() -> None:
    found = tree("b", *FORKED)
    assert (found.cells, found.executions) == (7, 4)
    assert (found.reuse.node_runs, found.reuse.served) == (10, 6 * 5 + 4)
    assert (found.reuse.duration_ms, found.reuse.served_ms) == (1500, 6 * 300 + 1100)
    assert found.reuse.usage == {"tokens": 170, "cost": 0.5}
    assert found.reuse.served_usage == {"tokens": 700 + 40 + 40 + 60, "cost": 3.0}
    assert found.nodes[1].usage == {"tokens": 100}
    assert found.nodes[2].usage == {"cost": 0.5}


def test_a_loop_goes_on_below_itself() -> None:
    steps = [step("e.0", i, name) for i, name in enumerate(("a", "b", "a", "b", "a"), 1)]
    found = tree("b", [way("e.0")], start("e.0"), steps)
    assert ends(found) == {"a b a b a": {"DONE": 1}}
    assert [node.runs for node in found.nodes] == [0, 1, 1, 1, 1, 1]


def test_the_ways_of_two_cases_are_laid_over_each_other() -> None:
    steps = [
        *(step(f"{c}.0", 1, "one") for c in "xy"),
        step("x.0", 2, "two"),
        step("y.0", 2, "end"),
    ]
    found = tree("b", [way("x.0", done=3), way("y.0", done=3)], start("x.0", "y.0"), steps)
    one = found.nodes[1]
    assert (one.nodes, one.runs, one.cells, one.duration_ms) == (("one",), 2, 6, 200)
    assert ends(found) == {"one end": {"DONE": 3}, "one two": {"DONE": 3}}
    assert (found.reuse.node_runs, found.reuse.served) == (4, 12)


def test_a_way_leads_over_three_executions_and_stops_where_each_was_left() -> None:
    branches = [*start("e1.0"), BranchRow("e2.0", "e1.0", 1), BranchRow("e3.0", "e2.0", 2)]
    steps = [
        step(f"e{e}.0", i, f"n{e}") for e, first in ((1, 1), (2, 2), (3, 3)) for i in (first, 4)
    ]
    found = tree("b", [way("e3.0")], branches, steps)
    assert ends(found) == {"n1 n2 n3 n3": {"DONE": 1}}
    assert (found.reuse.node_runs, found.reuse.served) == (6, 4)


def test_what_a_rollback_left_was_run_but_serves_nobody() -> None:
    branches = [*start("e.0"), BranchRow("e.1", "e.0", 1)]
    steps = [step("e.0", 1, "one"), step("e.0", 2, "two"), step("e.1", 2, "other")]
    found = tree("b", [way("e.1")], branches, steps)
    assert ends(found) == {"one other": {"DONE": 1}}
    assert (found.reuse.node_runs, found.reuse.served) == (3, 2)


def test_inner_nodes_name_their_variants_at_the_node_that_holds_them() -> None:
    binding = {"outer": "x", "outer/in": "y", "outer/kept": "default", "outermost": "z"}
    found = tree(
        "b", [WayRow("e.0", binding, {"DONE": 1})], start("e.0"), [step("e.0", 1, "outer")]
    )
    assert found.nodes[1].nodes == ("outer=x(in=y)",)


def test_cells_that_have_not_begun_are_not_in_it() -> None:
    found = tree("b", [WayRow("e.0", {}, {}), way("e.1")], start("e.0", "e.1"), [])
    assert (found.cells, found.nodes[0].ended) == (1, {"DONE": 1})


def test_a_way_may_be_longer_than_json_can_be_deep() -> None:
    steps = [step("e.0", i, "a") for i in range(1, 3001)]
    found = tree("b", [way("e.0")], start("e.0"), steps)
    assert BatchTree.model_validate_json(found.model_dump_json()) == found
    assert drawn(found)[-1] == (
        "└── a → a → a → a → 2,992 more → a → a → a → a  3,000 runs for 1 cell  5 min 00 s  1 done"
    )


shapes = st.lists(
    st.tuples(st.lists(st.sampled_from("abc"), max_size=6), st.integers(1, 3)),
    min_size=1,
    max_size=6,
)


@given(shapes)
@settings(deadline=None, database=None)
def test_what_leaves_a_node_is_what_came_to_it(shapes: list[tuple[list[str], int]]) -> None:
    ways = [way(f"e{i}.0", done=cells) for i, (_, cells) in enumerate(shapes)]
    steps = [
        step(f"e{i}.0", number, name)
        for i, (names, _) in enumerate(shapes)
        for number, name in enumerate(names, 1)
    ]
    found = tree("b", ways, start(*(w.thread_id for w in ways)), steps)
    assert found.reuse.node_runs == len(steps) == sum(node.runs for node in found.nodes)
    assert found.reuse.served == sum(len(names) * cells for names, cells in shapes)
    for place, node in enumerate(found.nodes):
        after = sum(child.cells for child in found.nodes if child.parent == place)
        assert node.cells == after + sum(node.ended.values())
        assert node.parent is None or node.parent < place
    text = "\n".join(drawn(found, everything=True))
    assert text.count(" done") == len(ends(found))


def drawn(found: BatchTree, width: int = 100, *, everything: bool = False) -> Sequence[str]:
    """What `wtb batch tree` prints."""
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    with console.capture() as shown:
        console.print(tree_views.tree(found, everything=everything))
    return [line.rstrip() for line in shown.get().splitlines()]


def test_the_drawing_folds_chains_and_says_what_was_spared() -> None:
    assert drawn(tree("b1", *FORKED)) == [
        "10 node runs, 34 without sharing: 70.6 % saved, 1.40 s, tokens 670, cost 2.5",
        "",
        "b1  7 cells in 4 executions",
        "└── one  1 run for 7 cells  x7.0  100 ms  tokens 100",
        "    ├── two + worker ×2  3 runs for 6 cells  x6.0  100 ms  cost 0.5",
        "    │   ├── last  1 run for 2 cells  x2.0  100 ms  tokens 20  2 done",
        "    │   ├── last=a  1 run for 2 cells  x2.0  100 ms  tokens 20  1 done, 1 failed",
        "    │   └── last=b  1 run for 2 cells  x2.0  100 ms  tokens 30  2 running",
        "    └── two=x + worker ×2  3 runs for 1 cell  1.00 s  1 done",
    ]


def test_the_drawing_keeps_its_lines_apart_where_it_is_narrow() -> None:
    lines = drawn(tree("b1", *FORKED), 30)
    assert max(map(len, lines)) <= 30
    assert [line for line in lines if "last" in line] == [
        "    │   ├── last  1 run for 2",
        "    │   ├── last=a  1 run for",
        "    │   └── last=b  1 run for",
    ]
    assert lines.count("    │   │   done") == 1


def test_a_chain_on_which_cells_end_is_drawn_on_one_level() -> None:
    ways = [way("x.0"), way("y.0"), way("z.0")]
    steps = [
        step(w.thread_id, i, "tools" if i % 2 == 0 else "agent", ms=10)
        for w, last in zip(ways, (1, 3, 5), strict=True)
        for i in range(1, last + 1)
    ]
    assert drawn(tree("b", ways, start(*(w.thread_id for w in ways)), steps)) == [
        "9 node runs, 9 without sharing: nothing saved",
        "",
        "b  3 cells in 3 executions",
        "└── agent  3 runs for 3 cells  30 ms  1 done",
        "    → tools → agent  4 runs for 2 cells  40 ms  1 done",
        "    → tools → agent  2 runs for 1 cell  20 ms  1 done",
    ]


def fan(wide: int) -> BatchTree:
    """A node, and after it so many others."""
    ways = [way("e0.0", last="v0"), *(way(f"e{i}.0", last=f"v{i}") for i in range(1, wide))]
    branches = [*start("e0.0"), *(BranchRow(w.thread_id, "e0.0", 1) for w in ways[1:])]
    return tree(
        "b", ways, branches, [step("e0.0", 1, "one"), *(step(w.thread_id, 2, "last") for w in ways)]
    )


def test_a_wide_fork_is_cut_unless_all_of_it_is_wanted() -> None:
    lines = drawn(fan(49))
    assert (len(lines), lines[-1]) == (
        4 + 12 + 1,
        "    └── and 37 more for 37 cells; --all draws them",
    )
    assert len(drawn(fan(49), everything=True)) == 4 + 49
    assert len(drawn(fan(13))) == 4 + 13, "a line that says that one is missing may be that one"


def test_forks_below_forks_are_cut_before_they_leave_the_screen() -> None:
    ways = [way(f"e{i}.0") for i in range(40)]
    steps = [
        step(w.thread_id, number, "go" if number <= i else "end")
        for i, w in enumerate(ways)
        for number in range(1, i + 2)
    ]
    found = tree("b", ways, start(*(w.thread_id for w in ways)), steps)
    lines = drawn(found)
    assert max(map(len, lines)) <= 80
    assert sum("and 2 more for 32 cells" in line for line in lines) == 1
    assert len(drawn(found, 300, everything=True)) == 3 + 39 + 39, "the last two are one"


def test_nothing_is_drawn_of_a_batch_that_has_not_begun() -> None:
    assert drawn(tree("b", [], [], [])) == ["no cells that have begun"]


def test_names_cannot_speak_to_the_terminal() -> None:
    found = tree("b", [way("e.0")], start("e.0"), [step("e.0", 1, "a\x1b[31m", **{"t\x1b": 1})])
    assert "\x1b" not in "\n".join(drawn(found))
