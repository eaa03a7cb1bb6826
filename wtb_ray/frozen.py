"""What all models stand on: frozen pydantic models, canonical JSON, and digests of it."""

import ast
import hashlib
import inspect
import sys
from functools import cache
from itertools import pairwise
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class Frozen(BaseModel):
    """What stands below a field describes it in schemas, as with `use_attribute_docstrings`.

    It is read when a schema is shown: reading the source of every model took a third of the time
    in which our processes start, and hardly any of them shows a schema.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for base in cls.__mro__[: cls.__mro__.index(Frozen)]:
            for name, text in _described(base.__module__).get(base.__qualname__, {}).items():
                if name in properties:
                    properties[name].setdefault("description", text)
        return schema


@cache
def _described(module: str) -> dict[str, dict[str, str]]:
    """The texts below the fields of a module's classes, by class and field."""
    try:
        source = inspect.getsource(sys.modules[module])
    except OSError:  # installed without it
        return {}
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return {
        found.name: {
            field.target.id: inspect.cleandoc(below.value.value)
            for field, below in pairwise(found.body)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(below.value.value, str)
        }
        for found in classes
    }


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: the text that digests are taken of."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS).decode()


def digest(value: Any) -> str:
    """SHA-256 in hex of bytes, or of the canonical JSON of anything else."""
    raw = value if isinstance(value, bytes) else canonical(value).encode()
    return hashlib.sha256(raw).hexdigest()
