"""What nobody asks for after a while goes: keys of commands, ended operations, rows of dead runners.

Results, histories and the event log are never touched here.
"""

from wtb_ray.db import Database
from wtb_ray.store.sql import SQL


class Retention:
    """Deletes what is only of use for a time."""

    def __init__(self, db: Database):
        self._db = db

    async def prune(self, age_s: float) -> dict[str, int]:
        """Deletes what is older; gives how many rows of each kind went."""
        async with self._db.connection() as conn:
            return {
                name.removeprefix("prune_"): (
                    await conn.execute(SQL[name], {"age_s": age_s})
                ).rowcount
                for name in ("prune_keys", "prune_operations", "prune_leases")
            }
