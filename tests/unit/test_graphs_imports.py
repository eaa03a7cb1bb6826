"""What can be named by an import path, and what is refused with the cure."""

import functools

import pytest

from tests import variants
from wtb_ray import errors
from wtb_ray.imports import import_path, locate


@pytest.mark.parametrize(
    "obj", [variants.dense, variants.project, variants.Tuned, variants.Handler.generate]
)
def test_a_path_leads_back_to_its_object(obj: object) -> None:
    assert locate(import_path(obj)) is obj


def test_the_path_is_module_and_name() -> None:
    assert import_path(variants.Handler.generate) == "tests.variants:Handler.generate"


class Local:
    def node(self, state: object) -> None: ...


def renamed(state: object) -> None: ...


renamed.__qualname__ = "elsewhere"


@pytest.mark.parametrize(
    ("obj", "why"),
    [
        (lambda state: None, "lambda"),
        (variants.closure, "defined inside a function"),
        (functools.partial(variants.dense), "partial"),
        (variants.tuned, "instance"),
        (Local().node, "is not what an import"),
        (renamed, "is not what an import"),
    ],
)
def test_what_only_this_process_has_is_refused(obj: object, why: str) -> None:
    with pytest.raises(errors.NotImportable, match=why) as caught:
        import_path(obj, field="variants.retrieve")
    assert caught.value.details["field"] == "variants.retrieve"
    assert "module" in caught.value.details["reason"]


def test_what_a_script_defines_is_refused() -> None:
    def node(state: object) -> None: ...

    node.__module__, node.__qualname__ = "__main__", "node"
    with pytest.raises(errors.NotImportable, match="script or notebook"):
        import_path(node)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("no_colon", "not of the form"),
        ("tests.variants:<lambda>", "not of the form"),
        ("tests.variants:closed_over.<locals>.node", "not of the form"),
        ("tests.nowhere:node", "no module"),
        ("nowhere.at.all:node", "no module"),
        ("tests.variants:nothing", "names nothing"),
        ("tests.variants:Handler.nothing", "names nothing"),
    ],
)
def test_a_path_that_leads_nowhere_says_why(path: str, why: str) -> None:
    with pytest.raises(errors.NotImportable, match=why) as caught:
        locate(path, field="entry")
    assert caught.value.details["field"] == "entry"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("raise RuntimeError('broken')", "RuntimeError: broken"),
        ("import a_package_nobody_has", "a_package_nobody_has"),
        ("import sys; sys.exit(2)", "SystemExit: 2"),
        ("def (", "SyntaxError"),
    ],
)
def test_a_module_that_raises_says_what_it_raised(
    text: str, why: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"broken_{abs(hash(text)):x}"
    (tmp_path / f"{name}.py").write_text(text)  # type: ignore[operator]
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(errors.EntryFailed, match=why):
        locate(f"{name}:graph")
