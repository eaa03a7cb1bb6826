"""The execution tree on random graphs and matrices: the same results, and no node run too many."""

import random
from collections import Counter

import pytest

from tests import machines
from tests.integration.travel_bench import TravelBench, travel
from tests.integration.tree_bench import TreeBench, expected
from wtb_ray.model import FileTrackingConfig, new_id

__all__ = ["travel"]


async def _bench(travel: TravelBench, seed: int, tracked: bool) -> TreeBench:
    spec: dict[str, object] = {"variants": machines.variants(seed)}
    if tracked:
        spec["file_tracking"] = FileTrackingConfig()
    version = await travel.register(f"tests.machines:g{seed}", **spec)
    return TreeBench(travel, version)


def _matrix(chance: random.Random, seed: int) -> list[dict[str, str]]:
    """Up to six rows over a few nodes, so that many of them are alike somewhere."""
    nodes = chance.sample(sorted(machines.variants(seed)), 3)
    rows = {
        tuple(sorted((n, v) for n in nodes if (v := chance.choice(["default", "two", "five"]))))
        for _ in range(chance.randint(2, 6))
    }
    return [dict(row) for row in sorted(rows)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("crashes", [False, True], ids=["whole", "crashing"])
async def test_random_matrices_come_to_the_same_with_and_without_sharing(
    travel: TravelBench, seed: int, crashes: bool
) -> None:
    chance = random.Random(f"{seed} {crashes}")
    tracked = chance.random() < 0.4
    bench = await _bench(travel, seed, tracked)
    rows, repetitions = _matrix(chance, seed), chance.randint(1, 2)
    if crashes:
        bench.crash_at = sorted(chance.sample(range(1, 8), 2))
    for share_prefix in (True, False):
        keys = [new_id("k") for _ in range(2)]
        inputs = [{"key": key, "files": tracked, "trail": [], "sums": {}} for key in keys]
        batch = await bench.batch(rows, inputs, repetitions=repetitions, share_prefix=share_prefix)
        ended = await bench.run(batch)
        assert ended.counts == {"DONE": len(rows) * 2 * repetitions}
        reuse = (await travel.store.splits.tree(batch.id)).reuse
        assert ended.cost is not None
        assert ended.cost_incurred is not None
        assert (ended.cost.node_runs, ended.cost_incurred.node_runs) == (
            reuse.served,
            reuse.node_runs,
        )
        states = await bench.states(batch)
        for case, key in enumerate(keys):
            known = await expected(seed, key, tracked, rows)
            for variant, name in enumerate(batch.variants):
                for repetition in range(repetitions):
                    assert states[name, f"c{case}", repetition] == known.states[variant]
            wanted = known.shared if share_prefix else known.apart
            done = Counter(machines.DONE[key])
            whole = Counter({deed: n * repetitions for deed, n in wanted.items()})
            if crashes:  # what ran in a cut-off step runs again
                assert not whole - done
            else:
                assert done == whole
