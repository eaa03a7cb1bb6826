"""Which variants go on together, node by node."""

from collections.abc import Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from wtb_ray.environment import ExecutionConfig
from wtb_ray.model import ProjectSpec, VariantSpec
from wtb_ray.sharing import Group, Part, together

NODES = ("a", "ab", "b", "a/in", "a/in/deep", "b/in")
ROOTS = ("a", "ab", "b", "c")
NAMES = ("loud", "same", "soft", "plain")
VARIANTS = {
    "loud": VariantSpec(params={"mark": "!"}),
    "same": VariantSpec(params={"mark": "!"}),
    "soft": VariantSpec(params={"mark": "."}),
    "plain": VariantSpec(),
}


def group(*bindings: Mapping[str, str], volatile: Sequence[str] = ()) -> Group:
    spec = ProjectSpec(
        name="p",
        entry="m:f",
        variants=dict.fromkeys(NODES, VARIANTS),
        execution=ExecutionConfig(volatile_nodes=tuple(volatile)),
    )
    return Group(spec, dict(enumerate(bindings)))


def test_they_part_where_they_bind_what_comes_next_differently() -> None:
    three = group({}, {"a": "loud"}, {"a": "soft"})
    assert three.parts(["b"]) == ((0, 1, 2),)
    assert three.parts(["a"]) == ((0,), (1,), (2,))
    assert three.parts(["b", "a"]) == ((0,), (1,), (2,))
    assert three.parts([]) == ((0, 1, 2),)


def test_a_node_is_not_one_whose_name_begins_like_it() -> None:
    assert group({}, {"ab": "loud"}).parts(["a"]) == ((0, 1),)
    assert group({}, {"a": "loud"}).parts(["ab"]) == ((0, 1),)
    assert group({}, {"a": "loud"}, volatile=["ab"]).parts(["a"]) == ((0,), (1,))
    assert group({}, {"b": "loud"}, volatile=["ab"]).parts(["a"]) == ((0, 1),)


def test_they_part_before_a_subgraph_in_which_they_differ() -> None:
    inner = group({}, {"a/in": "loud"}, {"a/in/deep": "loud"}, {"a/in": "same"})
    assert inner.parts(["a"]) == ((0,), (1, 3), (2,))
    assert inner.parts(["b"]) == ((0, 1, 2, 3),)


def test_all_nodes_that_come_next_count_together() -> None:
    two = group({}, {"a": "loud"}, {"b": "loud"}, {"a": "loud", "b": "loud"})
    assert two.parts(["a"]) == ((0, 2), (1, 3))
    assert two.parts(["b"]) == ((0, 1), (2, 3))
    assert two.parts(["a", "b"]) == ((0,), (1,), (2,), (3,))
    assert two.parts(["a", "a"]) == two.parts(["a"])


def test_the_part_of_the_first_member_is_the_first_and_each_is_in_order() -> None:
    spec = ProjectSpec(name="p", entry="m:f", variants={"a": VARIANTS})
    bindings = {7: {"a": "loud"}, 2: {"a": "soft"}, 5: {"a": "loud"}, 3: {}, 9: {"a": "soft"}}
    found = Group(spec, bindings)
    assert found.members == (2, 3, 5, 7, 9)
    assert found.parts(["a"]) == ((2, 9), (3,), (5, 7))


def test_what_is_the_same_under_another_name_is_shared() -> None:
    assert group({"a": "loud"}, {"a": "same"}).parts(["a"]) == ((0, 1),)
    assert group({}, {"a": "default"}, {"a": "plain"}).parts(["a"]) == ((0, 1, 2),)


def test_a_variant_that_nothing_new_may_take_is_still_what_it_is() -> None:
    off = VariantSpec(params={"mark": "!"}, active=False)
    spec = ProjectSpec(name="p", entry="m:f", variants={"a": {**VARIANTS, "off": off}})
    assert Group(spec, {0: {"a": "loud"}, 1: {"a": "off"}}).parts(["a"]) == ((0, 1),)


def test_a_volatile_node_ends_all_sharing_also_inside_of_one() -> None:
    assert group({}, {}, {}, volatile=["b"]).parts(["a", "b"]) == ((0,), (1,), (2,))
    assert group({}, {}, volatile=["a/in"]).parts(["a"]) == ((0,), (1,))
    assert group({}, {}, volatile=["a/in"]).parts(["b"]) == ((0, 1),)
    assert group({}, volatile=["a"]).parts(["a"]) == ((0,),)


def test_other_graphs_begin_apart() -> None:
    bindings = [{}, {"_workflow": "short"}, {"a": "loud"}, {"_workflow": "short", "a": "loud"}]
    assert together(bindings, [0, 1, 2, 3]) == [(0, 2), (1, 3)]
    assert together(bindings, {3, 2}) == [(2,), (3,)]
    assert together(bindings, []) == []


bindings_of_all = st.lists(
    st.dictionaries(st.sampled_from(NODES), st.sampled_from(NAMES), max_size=4),
    min_size=1,
    max_size=8,
)
roots = st.lists(st.sampled_from(ROOTS), max_size=4)
volatiles = st.lists(st.sampled_from(NODES), max_size=1)


@given(bindings_of_all, roots, roots, volatiles)
@settings(deadline=None, database=None)
def test_parts_are_a_partition_which_more_nodes_only_refine(
    bindings: list[dict[str, str]], nodes: list[str], more: list[str], volatile: list[str]
) -> None:
    found = group(*bindings, volatile=volatile)
    coarse, fine = found.parts(nodes), found.parts([*nodes, *more])
    for parts in (coarse, fine):
        members = [member for part in parts for member in part]
        assert sorted(members) == list(range(len(bindings)))
        assert all(list(part) == sorted(part) for part in parts)
        assert [part[0] for part in parts] == sorted(part[0] for part in parts)
    assert all(any(set(part) <= set(whole) for whole in coarse) for part in fine)
    assert found.parts(list(reversed(nodes))) == coarse


@given(bindings_of_all, roots)
@settings(deadline=None, database=None)
def test_members_are_together_exactly_when_they_run_the_same(
    bindings: list[dict[str, str]], nodes: list[str]
) -> None:
    def runs(binding: Mapping[str, str]) -> dict[str, str]:
        """What it puts into these nodes and below them, by what it is."""
        below = {p: VARIANTS[name] for p, name in binding.items() if p.split("/")[0] in nodes}
        return {path: str(v.params) for path, v in below.items() if v.params}

    parts = group(*bindings).parts(nodes)
    part_of: dict[int, Part] = {member: part for part in parts for member in part}
    for one in range(len(bindings)):
        for other in range(len(bindings)):
            same = runs(bindings[one]) == runs(bindings[other])
            assert (part_of[one] is part_of[other]) == same
