"""Fingerprints: the same for the same behaviour, another one for another."""

import dataclasses
import functools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests import variants
from wtb_ray.entries import fingerprint_of
from wtb_ray.fingerprints import fingerprint


def made(prompt: object, size: int = 3) -> Callable[[str], str]:
    def node(state: str) -> str:
        return f"{prompt} {state}"[:size]

    return node


def plain(state: str) -> str:
    return state.upper()


def asked(state: str, times: int = 1, *, sure: bool = True) -> str:
    return state * times if sure else ""


class Model:
    def __init__(self, name: str, temperature: float) -> None:
        self.name, self.temperature = name, temperature
        self.self = self  # a cycle must not matter

    def __call__(self, state: str) -> str:
        return f"{self.name} {state}"

    def method(self, state: str) -> str:
        return state


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    name: str

    def __call__(self, state: str) -> str:
        return self.name


EQUAL: list[tuple[Any, Any]] = [
    (made("x"), made("x")),
    (made(["a", {"b": {1, 2, 3}}]), made(["a", {"b": {3, 2, 1}}])),
    (functools.partial(asked, times=2), functools.partial(asked, times=2)),
    (Model("m", 0.1), Model("m", 0.1)),
    (Model("m", 0.1).method, Model("m", 0.1).method),
    (Slotted("a"), Slotted("a")),
]
DIFFERENT: list[tuple[Any, Any]] = [
    (made("x"), made("y")),
    (made(1), made("1")),
    (made(True), made(1)),
    (made((1,)), made([1])),
    (plain, asked),
    (functools.partial(asked, times=2), functools.partial(asked, times=3)),
    (functools.partial(asked, sure=True), functools.partial(asked, sure=False)),
    (Model("m", 0.1), Model("m", 0.2)),
    (Model("m", 0.1).method, Model("n", 0.1).method),
    (Slotted("a"), Slotted("b")),
    (made(Model("a", 1)), made(Model("b", 1))),
    (made(plain), made(asked)),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_the_same_behaviour_has_the_same_fingerprint(one: object, other: object) -> None:
    assert one is not other
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_another_behaviour_has_another_fingerprint(one: object, other: object) -> None:
    assert fingerprint(one) != fingerprint(other)


def _module(text: str) -> Callable[..., Any]:
    space: dict[str, Any] = {"__name__": "app.nodes"}
    exec(compile(text, "nodes.py", "exec"), space)
    node: Callable[..., Any] = space["node"]
    return node


BASE = """
PROMPT = "be kind"
def helper(x): return x + 1
def node(state): return helper(len(PROMPT))
"""


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (("be kind", "be brief"), False),
        (("x + 1", "x + 2"), False),
        (("helper(len", "abs(len"), False),
        (("\nPROMPT", "\n# a comment\nPROMPT"), True),
        (("def helper", "UNUSED = 1\ndef helper"), True),
    ],
)
def test_helpers_and_constants_count_but_comments_do_not(
    change: tuple[str, str], same: bool
) -> None:
    assert (fingerprint(_module(BASE)) == fingerprint(_module(BASE.replace(*change)))) is same


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    code = (
        "from tests import variants as v; from wtb_ray.fingerprints import fingerprint as f;"
        "print(*map(f, [v.dense, v.tuned, v.prompted, v.closure, v.project, v.runnable]))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": "."},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    v = variants
    here = [v.dense, v.tuned, v.prompted, v.closure, v.project, v.runnable]
    assert told == list(map(fingerprint, here))


class Lazy(Model):
    @functools.cached_property
    def client(self) -> object:
        return object()


def test_a_fingerprint_is_the_same_after_use() -> None:
    node = Lazy("m", 0.1)
    before = fingerprint(node)
    assert node.client
    assert fingerprint(node) == before


def test_a_subgraph_is_told_from_another_by_its_nodes() -> None:
    one, same = variants.refine().compile(), variants.refine().compile()
    other = variants.simple().compile()
    assert fingerprint_of(one) == fingerprint_of(same) != fingerprint_of(other)
