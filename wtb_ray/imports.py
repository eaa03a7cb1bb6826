"""Import paths: `"pkg.module:name"` of an object, and the object of a path.

A path is what other processes can follow. An object that only this process has (a lambda, a
closure, something of a notebook) is refused with the cure, never shipped by value.
"""

import functools
import importlib
import inspect
import re
import sys
from typing import Any, Final

from wtb_ray import errors

PATH: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
CURE: Final = "move it to the top level of a module of the project"


def import_path(obj: Any, *, field: str = "implementation") -> str:
    """The path under which other processes find this object.

    Raises:
        NotImportable: Another process would not find it, or would find something else.
    """
    name = getattr(obj, "__qualname__", None)
    module = getattr(obj, "__module__", None)
    if isinstance(obj, functools.partial):
        raise _refused(field, repr(obj), "is a partial object; name it in a module and pass that")
    if not isinstance(name, str) or not isinstance(module, str):
        raise _refused(
            field, repr(obj), "is an instance; name it in a module and pass 'module:name'"
        )
    label = f"{module}.{name}"
    if "<lambda>" in name:
        raise _refused(field, label, "is a lambda")
    if "<locals>" in name:
        raise _refused(field, label, "is defined inside a function")
    if module == "__main__":
        raise _refused(field, label, "is defined in a script or notebook")
    path = f"{module}:{name}"
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not obj and not (inspect.ismethod(obj) and found == obj):
        raise _refused(field, label, f"is not what an import of {path} gives")
    return path


def locate(path: str, *, field: str = "implementation") -> Any:
    """The object of a path; imports its module.

    Raises:
        NotImportable: The path is malformed, or there is no such module or name.
        EntryFailed: The module raised while it was imported.
    """
    if "<" in path or not PATH.fullmatch(path):
        raise _refused(field, path, "is not of the form 'pkg.module:name'")
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as e:
        if e.name is not None and f"{module}.".startswith(f"{e.name}."):
            raise _refused(field, path, f"names no module that can be found: {e}") from e
        raise _failed(field, path, e) from e
    except (Exception, SystemExit) as e:
        raise _failed(field, path, e) from e
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as e:
            raise _refused(field, path, f"names nothing: {e}") from e
    return found


def _refused(field: str, what: str, why: str) -> errors.NotImportable:
    return errors.NotImportable(
        f"{what} cannot be imported by other processes: it {why}",
        field=field,
        reason=f"{what} {why}; {CURE}",
    )


def _failed(field: str, path: str, error: BaseException) -> errors.EntryFailed:
    reason = f"{type(error).__name__}: {error}"
    return errors.EntryFailed(
        f"importing {path} failed: {reason}", field=field, reason=reason, path=path
    )
