"""Commands on limits."""

from wtb_ray.rates import Limit, LimitSpec
from wtb_ray.store import Store


class LimitCommands:
    """What operators ask of limits."""

    _store: Store

    async def set_limit(self, name: str, spec: LimitSpec, actor: str) -> Limit:
        """Makes a limit, or changes it; what is in its buckets stays there."""
        return await self._store.limits.set(name, spec, actor=actor)

    async def remove_limit(self, name: str, actor: str) -> Limit:
        """Removes a limit; nodes that wait for it are refused.

        Raises:
            UnknownLimit: There is none of this name.
        """
        return await self._store.limits.remove(name, actor=actor)
