"""How the SDK packs a project's folder and names its functions."""

import functools
import hashlib
import importlib
import importlib.util
import io
import os
import runpy
import socket
import sys
import textwrap
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wtb_ray import bundles, errors
from wtb_ray.model import BUNDLE_MAX_FILES
from wtb_ray.scoring.text import exact
from wtb_ray.sdk.bundle import Code, find_root, pack


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(textwrap.dedent(text))
    return root


def names(data: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.namelist()


def test_equal_files_are_equal_bundles(tmp_path: Path) -> None:
    files = {"b/graph.py": "x = 1", "a.py": "y = 2", "README.md": "hi"}
    one, two = (
        write(tmp_path / "one", files),
        write(tmp_path / "two", dict(reversed(files.items()))),
    )
    (two / "a.py").touch()
    (two / "a.py").chmod(0o600)
    assert pack(one) == pack(two)
    (two / "a.py").chmod(0o700)
    assert pack(one) != pack(two)


def test_the_server_accepts_what_the_client_packs(tmp_path: Path) -> None:
    data = pack(write(tmp_path, {"src/app/graph.py": "x = 1", "tool.py": ""}), main="tool.py")
    bundles.check(data, hashlib.sha256(data).hexdigest())


def test_what_is_never_code_stays_at_home(tmp_path: Path) -> None:
    junk = [".git/config", ".venv/lib/x.py", "p/__pycache__/x.pyc", ".wtb/stack.json"]
    write(tmp_path, dict.fromkeys([*junk, "node_modules/x.js", "a.py"], ""))
    assert names(pack(tmp_path)) == ["a.py"]


def test_gitignore_is_honoured_in_every_folder(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            ".gitignore": "*.log\n/data/\n!keep.log\n",
            "a.log": "",
            "keep.log": "",
            "data/x.py": "",
            "p/data/x.py": "",
            "p/.gitignore": "secret.py\n!*.log\n",
            "p/secret.py": "",
            "p/b.log": "",
            "q/secret.py": "",
        },
    )
    kept = [".gitignore", "keep.log", "p/.gitignore", "p/b.log", "p/data/x.py", "q/secret.py"]
    assert names(pack(tmp_path)) == kept


GITIGNORE = r"""
# comment
*.log
!important.log
/build/
logs/*
!logs/keep/
**/raw/
data/**/*.bin
!data/model.bin
\#hash
\!bang
trailing\ 
[abc].tmp
foo/**/bar.txt
!
[
no\
"""  # noqa: W291
HIDDEN = """x.log build/out/important.log logs/a.txt logs/keep/b.log a/secret1.txt a/b/secretX.txt
data/raw/x.py data/other.bin #hash !bang a.tmp vendor/a.py vendor/lib/b.py foo/bar.txt
foo/1/2/bar.txt"""
SHOWN = """.gitignore a/.gitignore a/b/y.log a/secret10.txt a/x.log d.tmp data/model.bin
important.log logs/keep/a.txt vendor/.gitignore vendor/b.py"""


def test_patterns_say_what_they_say_to_git(tmp_path: Path) -> None:
    """What is shown is what `git ls-files --others --exclude-standard` shows of this tree."""
    write(tmp_path, dict.fromkeys([*HIDDEN.split(), "trailing ", *SHOWN.split()], ""))
    (tmp_path / ".gitignore").write_text(GITIGNORE)
    (tmp_path / "a/.gitignore").write_text("!*.log\nsecret?.txt\n")
    (tmp_path / "vendor/.gitignore").write_text("*\n!.gitignore\n!b.py\n")
    assert names(pack(tmp_path)) == SHOWN.split()


def test_a_root_that_its_repository_ignores_is_packed_all_the_same(tmp_path: Path) -> None:
    write(
        tmp_path,
        {".git/HEAD": "", ".gitignore": "build/\n", "build/app/a.py": "", "build/app/b.log": ""},
    )
    write(tmp_path / "build/app", {".gitignore": "*.log\n"})
    assert names(pack(tmp_path / "build/app")) == [".gitignore", "a.py"]


def test_the_gitignore_of_the_repository_counts_for_a_part_of_it(tmp_path: Path) -> None:
    write(tmp_path, {".git/HEAD": "", ".gitignore": "out/\n", "app/a.py": "", "app/out/b.py": ""})
    assert names(pack(tmp_path / "app")) == ["a.py"]


def test_a_link_inside_the_folder_is_packed_as_what_it_points_to(tmp_path: Path) -> None:
    write(tmp_path, {"real/a.py": "x = 1"})
    (tmp_path / "copy").symlink_to("real")
    (tmp_path / "b.py").symlink_to(tmp_path / "real/a.py")
    with zipfile.ZipFile(io.BytesIO(pack(tmp_path))) as archive:
        assert archive.namelist() == ["b.py", "copy/a.py", "real/a.py"]
        assert archive.read("b.py") == archive.read("copy/a.py") == b"x = 1"


@pytest.mark.parametrize("target", ["/etc", "../outside.py", "."])
def test_a_link_that_escapes_or_loops_is_refused_by_name(tmp_path: Path, target: str) -> None:
    write(tmp_path, {"outside.py": "", "root/a.py": ""})
    (tmp_path / "root/link").symlink_to(target)
    with pytest.raises(errors.BundleRejected, match="link is a link"):
        pack(tmp_path / "root")


def test_an_escaping_link_that_is_ignored_does_no_harm(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "data\n", "a.py": ""})
    (tmp_path / "data").symlink_to("/etc")
    assert names(pack(tmp_path)) == [".gitignore", "a.py"]


@pytest.mark.parametrize("target", ["nothing", "link"])
def test_a_link_that_leads_nowhere_is_left_out(tmp_path: Path, target: str) -> None:
    write(tmp_path, {"a.py": ""})
    (tmp_path / "link").symlink_to(target)
    assert names(pack(tmp_path)) == ["a.py"]


def test_what_is_no_file_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "", "empty.py": ""})
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path / "socket"))
        assert names(pack(tmp_path)) == ["a.py", "empty.py"]


def test_a_virtual_environment_of_any_name_stays_at_home(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "", "env/pyvenv.cfg": "", "env/lib/x.py": ""})
    (tmp_path / "env/python").symlink_to(sys.executable)
    assert names(pack(tmp_path)) == ["a.py"]


def test_unusual_names_arrive_as_they_are(tmp_path: Path) -> None:
    files = ["Graph.py", "graph.py", "sp ace/ü ñ.txt", "日本/10:00.log", "10:00.log"]
    write(tmp_path, {name: name for name in files})
    data = pack(tmp_path)
    folder = bundles.unpack(data, hashlib.sha256(data).hexdigest(), tmp_path / "node")
    assert {name: (folder / name).read_text() for name in files} == {name: name for name in files}


@pytest.mark.parametrize(
    ("name", "shown"), [(b"x\xff.txt", "x\\xff.txt"), (b"a\\b", "a\\b"), (b"a\nb", "a\nb")]
)
def test_a_name_that_no_bundle_can_hold_is_told(tmp_path: Path, name: bytes, shown: str) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    with pytest.raises(errors.BundleRejected, match=r"rename it, or name it in \.gitignore") as e:
        pack(tmp_path)
    assert e.value.details == {"field": "root", "reason": "name", "path": shown}


def test_a_path_deeper_than_disks_take_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(20):
        os.mkdir("f" * 250)
        os.chdir("f" * 250)
    with pytest.raises(errors.BundleRejected, match="longer than 1024 bytes"):
        pack(tmp_path)


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(errors.BundleRejected, match="is no folder"):
        pack(tmp_path / "gone")


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for i in range(BUNDLE_MAX_FILES + 1):
        os.close(os.open(tmp_path / "data" / str(i), os.O_CREAT))
    with pytest.raises(errors.BundleRejected, match="more than 10000 files"):
        pack(tmp_path)
    write(tmp_path, {".gitignore": "data\n"})
    assert names(pack(tmp_path)) == [".gitignore"]


def test_too_much_is_refused_with_the_largest_files(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": ""})
    with (tmp_path / "model.bin").open("wb") as f:
        f.truncate(65 << 20)
    with pytest.raises(errors.BundleRejected, match=r"model\.bin \(65\.0 MiB\)"):
        pack(tmp_path)


@pytest.mark.parametrize("marker", ["pyproject.toml", "langgraph.json", ".git/HEAD"])
def test_the_root_is_the_nearest_project_folder(tmp_path: Path, marker: str) -> None:
    write(tmp_path, {"pyproject.toml": "", f"inner/{marker}": "", "inner/a/b/graph.py": ""})
    assert find_root(tmp_path / "inner/a/b/graph.py") == tmp_path / "inner"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path, str], types.ModuleType]]:
    """Imports a module from an import folder, for the time of the test."""
    before = set(sys.modules)

    def load(folder: Path, name: str) -> types.ModuleType:
        monkeypatch.syspath_prepend(folder)
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - before:
        del sys.modules[name]


Load = Callable[[Path, str], Any]
GRAPH = """
import functools
class Nodes:
    def method(self): ...
def make(): ...
def outer():
    def inner(): ...
    return inner
short = lambda: None
alias = make
bound = functools.partial(make)
"""


@pytest.mark.parametrize("folder", [".", "src", "services/agent"])
def test_a_function_is_named_as_its_author_imports_it(
    tmp_path: Path, load: Load, folder: str
) -> None:
    write(tmp_path, {"pyproject.toml": "", f"{folder}/shop_a/graph.py": GRAPH})
    code = Code()
    assert code.name(load(tmp_path / folder, "shop_a.graph").make, "f") == "shop_a.graph:make"
    assert code.root == tmp_path
    extra = [".wtb-paths"] if folder == "services/agent" else []
    data = code.pack()
    assert data is not None
    assert names(data) == [
        *extra,
        *sorted(["pyproject.toml", (Path(folder) / "shop_a/graph.py").as_posix()]),
    ]


def test_a_module_outside_every_import_folder_is_named_from_the_root(tmp_path: Path) -> None:
    write(tmp_path, {"src/tools/made.py": GRAPH})
    spec = importlib.util.spec_from_file_location("anything", tmp_path / "src/tools/made.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["anything"] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        assert Code(tmp_path).name(module.make, "f") == "tools.made:make"
    finally:
        del sys.modules["anything"]


@pytest.mark.parametrize(
    ("what", "reason", "cure"),
    [
        ("short", "lambda", "def"),
        ("outer", "closure", "top level"),
        ("bound", "object", "package.module:name"),
        ("method", "name", "top level"),
    ],
)
def test_what_others_cannot_import_is_refused_with_the_cure(
    tmp_path: Path, load: Load, what: str, reason: str, cure: str
) -> None:
    module = load(write(tmp_path, {"shop_b.py": GRAPH}), "shop_b")
    value = {"outer": module.outer(), "method": module.Nodes.method}.get(what)
    with pytest.raises(errors.NotImportable, match=cure) as e:
        Code(tmp_path).name(value or getattr(module, what), "graph_factory")
    assert e.value.details == {"field": "graph_factory", "reason": reason}


def test_a_name_that_means_something_else_by_now_is_refused(tmp_path: Path, load: Load) -> None:
    module = load(write(tmp_path, {"shop_c.py": GRAPH}), "shop_c")
    old = module.make
    module.make = functools.wraps(old)(lambda: None)
    with pytest.raises(errors.NotImportable, match="is not what"):
        Code(tmp_path).name(old, "f")


def test_code_outside_of_the_root_is_refused(tmp_path: Path, load: Load) -> None:
    write(tmp_path, {"one/shop_d.py": GRAPH, "two/shop_e.py": GRAPH})
    code = Code()
    code.name(load(tmp_path / "one", "shop_d").make, "f")
    with pytest.raises(errors.NotImportable, match="root="):
        code.name(load(tmp_path / "two", "shop_e").make, "g")


def test_code_that_gitignore_hides_is_missed_before_it_is_sent(tmp_path: Path, load: Load) -> None:
    write(tmp_path, {"pyproject.toml": "", ".gitignore": "shop_f.py", "shop_f.py": GRAPH})
    code = Code()
    code.name(load(tmp_path, "shop_f").make, "f")
    with pytest.raises(errors.BundleRejected, match=r"shop_f\.py is needed"):
        code.pack()


def test_installed_code_needs_no_bundle() -> None:
    code = Code()
    assert code.name(exact, "scorers") == "wtb_ray.scoring.text:exact"
    assert code.name(textwrap.dedent, "f") == "textwrap:dedent"
    assert code.name(zipfile.ZipFile, "f") == "zipfile:ZipFile"
    assert code.name("wtb_ray.examples.rag.graph:anything", "f").startswith("wtb_ray.")
    assert code.name("surely_not_there.graph:make", "f") == "surely_not_there.graph:make"
    assert code.pack() is None


def test_a_path_of_local_code_brings_its_folder(tmp_path: Path, load: Load) -> None:
    write(tmp_path, {"pyproject.toml": "", "lib/shop_g/graph.py": GRAPH})
    load(tmp_path / "lib", "shop_g")
    code = Code()
    assert code.name("shop_g.graph:make", "f") == "shop_g.graph:make"
    data = code.pack()
    assert data is not None
    assert names(data) == [".wtb-paths", "lib/shop_g/graph.py", "pyproject.toml"]


@pytest.mark.parametrize("path", ["graph", "graph:", ":make", "a-b:make", "graph:a.b", "a..b:c"])
def test_a_path_of_the_wrong_form_is_refused(path: str) -> None:
    with pytest.raises(errors.NotImportable, match=r"package\.module:name"):
        Code().name(path, "graph_factory")


def test_after_packing_only_what_was_packed_can_be_named(tmp_path: Path, load: Load) -> None:
    write(tmp_path, {"pyproject.toml": "", "shop_h.py": GRAPH, "shop_i.py": GRAPH})
    code = Code()
    code.name(load(tmp_path, "shop_h").make, "f")
    code.pack()
    assert code.name(load(tmp_path, "shop_i").make, "scorers") == "shop_i:make"
    write(tmp_path, {"shop_j.py": GRAPH})
    importlib.invalidate_caches()
    with pytest.raises(errors.BundleRejected, match=r"shop_j\.py"):
        code.name(load(tmp_path, "shop_j").make, "scorers")


SCRIPT = """
from wtb_ray.sdk.bundle import Code
def make(): ...
if __name__ == "__main__":
    code = Code()
    name, data = code.name(make, "graph_factory"), code.pack()
"""


def test_a_script_is_named_wtb_main(tmp_path: Path) -> None:
    write(tmp_path, {"pyproject.toml": "", "scripts/my-run.py": SCRIPT})
    ran = runpy.run_path(str(tmp_path / "scripts/my-run.py"), run_name="__main__")
    assert ran["name"] == "__wtb_main__:make"
    with zipfile.ZipFile(io.BytesIO(ran["data"])) as archive:
        assert archive.read(".wtb-main") == b"scripts/my-run.py\n"


def test_a_module_that_is_run_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"pyproject.toml": "", "shop_k/__init__.py": "", "shop_k/run.py": SCRIPT})
    monkeypatch.syspath_prepend(tmp_path)
    ran = runpy.run_module("shop_k.run", run_name="__main__", alter_sys=True)
    assert ran["name"] == "shop_k.run:make"
    assert ".wtb-main" not in names(ran["data"])


def test_a_prompt_or_notebook_is_refused_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", prompt)
    with pytest.raises(errors.NotImportable, match=r"move it into a \.py file"):
        exec(SCRIPT, prompt.__dict__)
