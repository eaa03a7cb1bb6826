"""The user's code on its way to the bench: which folder, which files, under which import path.

`pack` gives the same bytes for the same files on every machine, so that equal code is one version.
`Code` names the functions of a project as other processes can import them. Nothing here imports
the server's half (`wtb_ray.bundles`), which checks what arrives.
"""

import inspect
import io
import os
import site
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from pathspec import GitIgnoreSpec

import wtb_ray
from wtb_ray import bundle_names, errors
from wtb_ray.model import (
    BUNDLE_MAIN,
    BUNDLE_MAX_FILES,
    BUNDLE_MAX_MB,
    BUNDLE_PATHS,
    MAIN_MODULE,
)

ROOT_MARKERS = ("pyproject.toml", "langgraph.json", ".git")
ALWAYS_IGNORED = frozenset(
    {".git", ".venv", "__pycache__", ".wtb", "node_modules", BUNDLE_MAIN, BUNDLE_PATHS}
    | {".mypy_cache", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints"}
)
_VENV_MARKER = "pyvenv.cfg"
_MIB = 1 << 20


def find_root(file: Path) -> Path:
    """The nearest folder above `file` that looks like a project, else the file's own folder."""
    file = file.resolve()
    for folder in file.parents:
        if any((folder / marker).exists() for marker in ROOT_MARKERS):
            return folder
    return file.parent


def pack(folder: Path, *, main: str | None = None, paths: Iterable[str] = ()) -> bytes:
    """A zip of the folder without what `.gitignore` and `ALWAYS_IGNORED` name.

    Args:
        main: Path in the folder of the script that is to be importable as `__wtb_main__`.
        paths: Further folders in the folder that modules are imported from.

    Raises:
        BundleRejected: Too many or too large files, a link that leaves the folder, a name that
            no bundle can hold, or a file that cannot be read.
    """
    folder = folder.resolve()
    try:
        return _packed(folder, main, paths)
    except OSError as e:
        path = _relative(folder, Path(e.filename)) if isinstance(e.filename, str) else ""
        raise errors.BundleRejected(
            f"{path or folder} cannot be read: {e.strerror}",
            field="root",
            reason="unreadable",
            path=path,
        ) from e


def _packed(folder: Path, main: str | None, paths: Iterable[str]) -> bytes:
    files = _collect(folder)
    markers = {BUNDLE_MAIN: [main] if main else [], BUNDLE_PATHS: sorted(set(paths))}
    out = io.BytesIO()
    # Stored, not deflated: zlib's output differs between builds, and so would the digest.
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, lines in markers.items():
            if lines:
                text = "".join(f"{line}\n" for line in lines).encode()
                bundle_names.add(archive, name, text, executable=False)
        for name, path in sorted(files.items()):
            executable = bool(path.stat().st_mode & 0o100)
            bundle_names.add(archive, name, path.read_bytes(), executable=executable)
    data = out.getvalue()
    if len(data) > BUNDLE_MAX_MB * _MIB:
        raise _too_large(folder, files)
    return data


class Code:
    """The import paths of what one project names, and the folder that holds their code.

    After `pack` the bundle stays as it is: what is named then must be in it.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root).resolve() if root is not None else None
        self._main: str | None = None
        self._paths: set[str] = set()
        self._files: set[Path] = set()
        self._packed: frozenset[str] | None = None

    def name(self, what: Callable[..., Any] | str, field: str) -> str:
        """`"module:name"` of a function or class, by which any process with the bundle finds it.

        Raises:
            NotImportable: It has no name of its own in a module; the message says what to do.
        """
        if isinstance(what, str):
            self._locate_text(what, field)
            return what
        module, name = _importable(what, field)
        file = _file_of(module, what, field)
        module_name = _real_name(module)
        if file is None or _installed(file.resolve()):
            return f"{module_name}:{name}"
        return f"{self._module_in_bundle(module_name, file, field)}:{name}"

    def pack(self) -> bytes | None:
        """The bundle, or None when all that is named is installed wherever the bench runs."""
        self._packed = frozenset()
        if self.root is None:
            return None
        data = pack(self.root, main=self._main, paths=self._paths)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            self._packed = frozenset(archive.namelist())
        for file in self._files:
            self._check_packed(file, "root")
        return data

    def _module_in_bundle(self, module: str, file: Path, field: str) -> str:
        if self.root is None and self._packed is None:
            self.root = find_root(file)
        # A module that is reached by a link inside the folder has its name from there.
        file = file if self.root and file.is_relative_to(self.root) else file.resolve()
        if self.root is None or not file.is_relative_to(self.root):
            raise errors.NotImportable(
                f"{field}: {file} is outside of the bundle's folder {self.root or ''}: give the"
                " project a root= that holds all of its code",
                field=field,
                reason="outside_root",
            )
        if self._packed is not None:
            self._check_packed(file, field)
        self._files.add(file)
        relative = file.relative_to(self.root)
        if module == "__main__" and self._set_main(relative.as_posix()):
            return MAIN_MODULE
        if (folder := _import_folder(module, file)) is not None and self._add_path(folder):
            return module
        return _dotted(relative, field)

    def _check_packed(self, file: Path, field: str) -> None:
        name = file.relative_to(self.root or "/").as_posix()
        if name not in (self._packed or ()):
            raise errors.BundleRejected(
                f"{name} is needed, but it is not in the bundle: name it in no .gitignore, and"
                " register the project after it is written",
                field=field,
                reason="not_in_bundle",
                path=name,
            )

    def _set_main(self, script: str) -> bool:
        """Make `script` the bundle's script, if it still can be."""
        if self._packed is None:
            self._main = script
        return self._main == script

    def _add_path(self, folder: Path) -> bool:
        """Make `folder` an import folder of the bundle, if it is in it and still can be."""
        if self.root is None or not folder.is_relative_to(self.root):
            return False
        relative = folder.relative_to(self.root).as_posix()
        if relative not in (".", "src") and self._packed is None:
            self._paths.add(relative)
        return relative in (".", "src", *self._paths)

    def _locate_text(self, path: str, field: str) -> None:
        module, colon, name = path.partition(":")
        if not (colon and name.isidentifier() and all(p.isidentifier() for p in module.split("."))):
            raise errors.NotImportable(
                f"{field}: {path!r} has not the form 'package.module:name'",
                field=field,
                reason="form",
            )
        if module == "__main__":
            raise errors.NotImportable(
                f"{field}: {path!r}: give the function itself, not its path",
                field=field,
                reason="main",
            )
        # Only the top package: looking for more of it would import it. What is not found here may
        # still be installed where the bench runs; registering it will tell.
        spec = find_spec(module.partition(".")[0])
        places = [*(spec.submodule_search_locations or ()), spec.origin] if spec else []
        place = next((Path(p).resolve() for p in places if p and Path(p).exists()), None)
        if place is None or _installed(place):
            return
        if self.root is None:
            self.root = find_root(place)
        self._add_path(place.parent)


def _importable(what: Callable[..., Any], field: str) -> tuple[ModuleType, str]:
    module_name = getattr(what, "__module__", None)
    name = getattr(what, "__qualname__", None)
    if module_name is None or name is None or isinstance(what, ModuleType):
        raise _not_importable(
            field, what, "object", f"is a {type(what).__name__}: give it as 'package.module:name'"
        )
    if "<lambda>" in name:
        raise _not_importable(field, what, "lambda", "is a lambda: write it as a def in a module")
    if "<locals>" in name:
        raise _not_importable(
            field,
            what,
            "closure",
            f"({name}) is defined inside a function: move it to the top level of a module, and what"
            " it takes from around it into params=",
        )
    module = sys.modules.get(module_name)
    if "." in name or module is None or getattr(module, name, None) is not what:
        raise _not_importable(
            field,
            what,
            "name",
            f"is not what {module_name}.{name} is now: give it a name of its own at the top level"
            " of a module",
        )
    return module, name


def _file_of(module: ModuleType, what: Callable[..., Any], field: str) -> Path | None:
    """The file of the module; None for what has none because it is part of Python."""
    file = getattr(module, "__file__", None)
    if module.__name__ != "__main__":
        return Path(file).absolute() if file else None
    code = getattr(inspect.unwrap(what), "__code__", None)
    source = code.co_filename if code is not None else ""
    if file is None or source.startswith("<") or "ipykernel" in source:
        raise _not_importable(
            field,
            what,
            "notebook",
            "is defined in a notebook cell or a prompt, where no other process can import it: move"
            " it into a .py file beside the notebook and import it from there",
        )
    return Path(file).resolve()


def _real_name(module: ModuleType) -> str:
    """`python -m pkg.mod` calls pkg.mod `__main__`, but it can be imported under its own name."""
    spec = module.__spec__
    return spec.name if module.__name__ == "__main__" and spec is not None else module.__name__


def _import_folder(module: str, file: Path) -> Path | None:
    """The folder on `sys.path` that a module of this name comes from, if its file tells."""
    stem = file.name.partition(".")[0]  # x.cpython-311-x86_64-linux-gnu.so is x too
    place = file.parent if stem == "__init__" else file.parent / stem
    parts = module.split(".")
    if place.parts[-len(parts) :] != tuple(parts):
        return None
    return place.parents[len(parts) - 1]


def _dotted(relative: Path, field: str) -> str:
    parts = relative.with_suffix("").parts
    parts = parts[1:] if parts[0] == "src" and len(parts) > 1 else parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    if not parts or not all(p.isidentifier() for p in parts):
        raise errors.NotImportable(
            f"{field}: {relative} cannot be imported under a name: rename what is no identifier",
            field=field,
            reason="identifier",
        )
    return ".".join(parts)


def _installed(file: Path) -> bool:
    """Whether the file belongs to Python, to an installed package, or to the bench itself."""
    folders = [
        *site.getsitepackages(),
        site.getusersitepackages(),
        str(Path(wtb_ray.__file__).parent),
    ]
    folders += [sysconfig.get_path(p) for p in ("stdlib", "platstdlib", "purelib", "platlib")]
    return any(file.is_relative_to(Path(folder).resolve()) for folder in folders)


def _not_importable(field: str, what: object, reason: str, text: str) -> errors.NotImportable:
    name = getattr(what, "__qualname__", None) or repr(what)
    return errors.NotImportable(f"{field}: {name} {text}", field=field, reason=reason)


Ignored = tuple[Path, GitIgnoreSpec]


def _collect(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        raise errors.BundleRejected(f"{root} is no folder", field="root", reason="no_folder")
    files: dict[str, Path] = {}
    total = 0
    for path in _walk(root, (root,), root, _outer_rules(root)):
        files[path.relative_to(root).as_posix()] = path
        total += path.stat().st_size
        if len(files) > BUNDLE_MAX_FILES or total > BUNDLE_MAX_MB * _MIB:
            raise _too_large(root, files)
    return files


def _walk(
    root: Path, above: tuple[Path, ...], folder: Path, rules: list[Ignored]
) -> Iterator[Path]:
    """The files below `folder` that nothing ignores; links inside the root count as their target."""
    if (ignore := folder / ".gitignore").is_file():
        rules = [*rules, _rules(ignore)]
    for path in sorted(folder.iterdir()):
        if path.name in ALWAYS_IGNORED or _ignored(path, rules):
            continue
        if (real := _real(path)) is None or (real / _VENV_MARKER).is_file():
            continue
        if not real.is_relative_to(root):
            raise _bad_link(root, path, f"to {real}, outside of the bundle's folder")
        if why := bundle_names.fault(path.relative_to(root).as_posix()):
            raise _bad_name(root, path, why)
        if path.is_dir():
            if real in above:
                raise _bad_link(root, path, "to a folder that it is in")
            yield from _walk(root, (*above, real), path, rules)
        elif path.is_file():
            yield path


def _real(path: Path) -> Path | None:
    """What a path leads to; None for a link that leads back to itself."""
    try:
        return path.resolve()
    except RuntimeError:
        return None


def _outer_rules(root: Path) -> list[Ignored]:
    """The `.gitignore` files between the root and the top of its repository.

    A root that they ignore itself is wanted all the same, and they say nothing about it.
    """
    above = [root, *root.parents]
    top = next((i for i, folder in enumerate(above) if (folder / ".git").exists()), 0)
    found = [folder / ".gitignore" for folder in reversed(above[1 : top + 1])]
    rules = [_rules(ignore) for ignore in found if ignore.is_file()]
    return [] if _ignored(root, rules) else rules


def _rules(ignore: Path) -> Ignored:
    text = ignore.read_text(encoding="utf-8", errors="surrogateescape")
    return ignore.parent, GitIgnoreSpec.from_lines(filter(_is_pattern, text.splitlines()))


def _is_pattern(line: str) -> bool:
    """Whether git would take the line; it passes over others without a word."""
    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True


def _ignored(path: Path, rules: list[Ignored]) -> bool:
    """As git decides: the innermost `.gitignore` that says anything."""
    slash = "/" if path.is_dir() and not path.is_symlink() else ""
    for folder, spec in reversed(rules):
        said: bool | None = spec.check_file(path.relative_to(folder).as_posix() + slash).include
        if said is not None:
            return said
    return False


def _bad_link(root: Path, link: Path, where: str) -> errors.BundleRejected:
    path = _relative(root, link)
    return errors.BundleRejected(
        f"{path} is a link {where}: remove it, or name it in .gitignore",
        field="root",
        reason="link",
        path=path,
    )


def _bad_name(root: Path, file: Path, why: str) -> errors.BundleRejected:
    path = _relative(root, file)
    return errors.BundleRejected(
        f"a bundle cannot hold {path}: {why}; rename it, or name it in .gitignore",
        field="root",
        reason="name",
        path=path,
    )


def _relative(root: Path, path: Path) -> str:
    """The path as it can be shown, whatever bytes its names have."""
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    return os.fsencode(shown).decode(errors="backslashreplace")


def _too_large(root: Path, files: dict[str, Path]) -> errors.BundleRejected:
    sizes = sorted(((p.stat().st_size, name) for name, p in files.items()), reverse=True)[:3]
    largest = ", ".join(f"{name} ({size / _MIB:.1f} MiB)" for size, name in sizes)
    return errors.BundleRejected(
        f"{root} has more than {BUNDLE_MAX_FILES} files or {BUNDLE_MAX_MB} MiB; name data and"
        f" builds in .gitignore, or give a smaller root=. Largest: {largest}",
        field="root",
        reason="too_large",
    )
