"""The named statements of all store modules, by name; a name is unique over all files."""

from typing import Final, LiteralString

from wtb_ray.db import queries

FILES: Final = (
    "audit",
    "holds",
    "collections",
    "projects",
    "environments",
    "executions",
    "restore_points",
    "control",
    "tree",
    "parking",
    "operations",
    "files",
    "cells",
    "costs",
    "batches",
    "leases",
    "limits",
    "events",
    "idempotency",
    "retention",
    "integrity",
    "repairs",
)

SQL: Final[dict[str, LiteralString]] = {
    name: text for file in FILES for name, text in queries(file).items()
}
