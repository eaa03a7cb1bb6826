"""How a user may lay out code and start it: named and packed there, imported and called elsewhere.

The user's side is a process as the user starts it. The other side has nothing but the bundle: what
the user had is somewhere else by then.
"""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wtb_ray import bundles, errors
from wtb_ray.imports import locate
from wtb_ray.sdk.bundle import pack

REGISTER = """
from wtb_ray.sdk.bundle import Code
import json, sys
def register(*functions):
    code = Code()
    named = [code.name(f, "f") for f in functions]
    open(sys.argv[1], "wb").write(code.pack())
    print(json.dumps(named))
"""
GUARDED = 'if __name__ == "__main__": register({})\n'


@dataclass
class Layout:
    """A project folder, how its author starts it, and what is known then."""

    name: str
    files: dict[str, str]
    start: list[str]
    named: list[str]
    found: list[object]
    """What the functions return on the other side."""
    links: dict[str, str] = field(default_factory=dict)
    folder: str = "."
    """Where the author stands."""


LAYOUTS = [
    Layout(
        "script",
        {
            "run.py": "from register import register\nimport beside\n"
            "def f(): return beside.x\n" + GUARDED.format("f"),
            "beside.py": "x = 'script'",
        },
        ["run.py"],
        ["__wtb_main__:f"],
        ["script"],
    ),
    Layout(
        "script whose name is no identifier",
        {
            "my scripts/2-run ü.py": "from register import register\nfrom beside import g\n"
            "def f(): return g()\n" + GUARDED.format("f, g"),
            "my scripts/beside.py": "def g(): return 'odd'",
            "my scripts/register.py": REGISTER,
        },
        ["my scripts/2-run ü.py"],
        ["__wtb_main__:f", "beside:g"],
        ["odd", "odd"],
    ),
    Layout(
        "script without a suffix, started from elsewhere",
        {"run": "from register import register\ndef f(): return 'bare'\n" + GUARDED.format("f")},
        ["../run"],
        ["__wtb_main__:f"],
        ["bare"],
        folder="elsewhere",
    ),
    Layout(
        "module of a package with relative imports",
        {
            "pkg/__init__.py": "from .deep.values import x",
            "pkg/deep/__init__.py": "",
            "pkg/deep/values.py": "x = 'relative'",
            "pkg/run.py": "from register import register\nfrom . import x\nfrom .deep import values\n"
            "def f(): return [x, values.x]\n" + GUARDED.format("f"),
        },
        ["-m", "pkg.run"],
        ["pkg.run:f"],
        [["relative", "relative"]],
    ),
    Layout(
        "package that is run",
        {
            "pkg/__init__.py": "",
            "pkg/nodes.py": "def g(): return 'node'",
            "pkg/__main__.py": "from register import register\nfrom .nodes import g\n"
            "def f(): return g()\n" + GUARDED.format("f, g"),
        },
        ["-m", "pkg"],
        ["pkg.__main__:f", "pkg.nodes:g"],
        ["node", "node"],
    ),
    Layout(
        "folder that is run",
        {
            "app/__main__.py": "from register import register\nfrom nodes import g\n"
            "def f(): return g()\n" + GUARDED.format("f, g"),
            "app/nodes.py": "def g(): return 'folder'",
            "app/register.py": REGISTER,
        },
        ["app"],
        ["__wtb_main__:f", "nodes:g"],
        ["folder", "folder"],
    ),
    Layout(
        "src with a namespace package",
        {
            "src/company/team/graph.py": "from .values import x\ndef f(): return x",
            "src/company/team/values.py": "x = 'namespace'",
            "run.py": "import sys\nsys.path.insert(0, 'src')\nfrom register import register\n"
            "from company.team.graph import f\n" + GUARDED.format("f"),
        },
        ["run.py"],
        ["company.team.graph:f"],
        ["namespace"],
    ),
    Layout(
        "two import folders",
        {
            "services/a/alpha.py": "import beta\ndef f(): return beta.g()",
            "libs/b c/beta.py": "def g(): return 'both'",
            "run.py": "import sys\nsys.path += ['services/a', 'libs/b c']\n"
            "from register import register\nfrom alpha import f\nfrom beta import g\n"
            + GUARDED.format("f, g"),
        },
        ["run.py"],
        ["alpha:f", "beta:g"],
        ["both", "both"],
    ),
    Layout(
        "linked package",
        {
            "vendor/lib-2.0/__init__.py": "from .inner import x",
            "vendor/lib-2.0/inner.py": "x = 'linked'\ndef f(): return x",
            "run.py": "from register import register\nfrom lib.inner import f\n"
            + GUARDED.format("f"),
        },
        ["run.py"],
        ["lib.inner:f"],
        ["linked"],
        links={"lib": "vendor/lib-2.0"},
    ),
    Layout(
        "data beside the code",
        {
            "pkg/__init__.py": "",
            "pkg/graph.py": "from importlib.resources import files\n"
            "def f(): return files('pkg').joinpath('prompt ü.txt').read_text()",
            "pkg/prompt ü.txt": "prompt",
            "run.py": "from register import register\nfrom pkg.graph import f\n"
            + GUARDED.format("f"),
        },
        ["run.py"],
        ["pkg.graph:f"],
        ["prompt"],
    ),
]


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def python(folder: Path, *words: str | Path) -> str:
    """What a Python process prints that stands in this folder."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("clean_imports")
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_code_is_found_again_under_the_name_it_was_given(tmp_path: Path, layout: Layout) -> None:
    root = write(
        tmp_path / "project", {"pyproject.toml": "", "register.py": REGISTER, **layout.files}
    )
    for link, target in layout.links.items():
        (root / link).symlink_to(target)
    (root / layout.folder).mkdir(exist_ok=True)
    bundle = tmp_path / "bundle.zip"
    named = json.loads(python(root / layout.folder, *layout.start, bundle))
    assert named == layout.named
    root.rename(tmp_path / "gone")
    found = [locate(path)() for path in activated(bundle.read_bytes(), tmp_path / "node", named)]
    assert found == layout.found


def activated(data: bytes, node: Path, paths: list[str]) -> list[str]:
    """The paths, in a process that serves this bundle."""
    bundles.activate(bundles.unpack(data, hashlib.sha256(data).hexdigest(), node))
    return paths


@pytest.mark.usefixtures("clean_imports")
def test_a_script_without_a_guard_starts_no_bench_where_it_is_imported(tmp_path: Path) -> None:
    root = write(
        tmp_path / "project",
        {"run.py": "from wtb_ray.sdk import WTBTestBench\ndef f(): ...\nWTBTestBench()\n"},
    )
    [path] = activated(pack(root, main="run.py"), tmp_path / "node", ["__wtb_main__:f"])
    with pytest.raises(errors.EntryFailed, match="guard your script with `if __name__ =="):
        locate(path)


@pytest.mark.parametrize("start", [["-c"], ["-"]])
def test_code_without_a_file_is_refused_with_the_cure(tmp_path: Path, start: list[str]) -> None:
    code = "from wtb_ray.sdk.bundle import Code\ndef f(): ...\nCode().name(f, 'f')"
    done = subprocess.run(
        [sys.executable, *start, *([code] if start == ["-c"] else [])],
        input=code,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "NotImportable" in done.stderr
    assert "move it into a .py file beside the notebook" in done.stderr
