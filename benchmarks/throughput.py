"""Executions per second beside LangGraph with its own Postgres saver: five async nodes that do nothing.

Contenders take turns on one Postgres, in as many processes as the bench uses, 64 executions at once
in each, every checkpoint durable before the next step. The saver alone has the fence, steps and
events in it; the whole bench also cells, claims, a scorer and scores, from the accepted HTTP request
to the completed batch.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from benchmarks import common
from benchmarks.contenders import CONTENDERS, Contender

WIDTH: Final = 64
DOCUMENTED: Final = "stock"
IMPROVED: Final = ("saver per run", "without lock")


@dataclass
class Repeat:
    """One turn of one contender."""

    rate: float
    """Executions per second of all processes together."""
    client_ms: float
    """Processor time an execution in the processes that run graphs (whole bench: the whole stack)."""
    server_ms: float
    """Processor time an execution in Postgres."""


@dataclass
class Standing:
    name: str
    repeats: list[Repeat] = field(default_factory=list)

    def median(self, what: str) -> float:
        return common.median([getattr(repeat, what) for repeat in self.repeats])

    @property
    def rate(self) -> float:
        return self.median("rate")

    @property
    def cpu_ms(self) -> float:
        """Processor time an execution, in all processes."""
        return common.median([repeat.client_ms + repeat.server_ms for repeat in self.repeats])


def run(
    *, repeats: int = 5, executions: int = 400, processes: int = 2, bench: bool = True
) -> tuple[dict[str, Any], list[common.Target]]:
    """Measures; gives the result to be written and the targets."""
    names = [*CONTENDERS, *([common.BENCH] if bench else [])]
    standings = {name: Standing(name) for name in names}
    with ExitStack() as context:
        server = context.enter_context(common.postgres())
        turns: dict[str, Any] = {}
        for name in CONTENDERS:
            url = server.database(name.replace(" ", "_"))
            contender = Contender(name, url, processes, WIDTH)
            context.callback(contender.close)
            turns[name] = _alone(server, contender, executions)
        if bench:
            stack = context.enter_context(
                common.stack(
                    database_url=server.database("bench"),
                    runner_slots=WIDTH,
                    runners_per_pool=processes,
                )
            )
            stack.register("five", "graphs:five")
            stack.warm("five", processes)
            turns[common.BENCH] = _whole(server, stack, executions * processes)
        for i in range(repeats):
            for name in names[i % len(names) :] + names[: i % len(names)]:
                server.settle()
                standings[name].repeats.append(turns[name]())
        idle = stack.idle_share() if bench else None
        facts = server.facts()
    _print(standings)
    result = {
        "executions": executions * processes,
        "processes": processes,
        "at_once": WIDTH * processes,
        "postgres": facts,
        "stack_idle_cpus": idle,
        "contenders": {
            name: {
                "rate": one.rate,
                "cpu_ms": one.cpu_ms,
                "repeats": [asdict(r) for r in one.repeats],
            }
            for name, one in standings.items()
        },
    }
    return result, _targets(standings)


def _alone(server: common.Server, contender: Contender, executions: int) -> Any:
    def turn() -> Repeat:
        contender.prepare(executions)
        before = server.processor_s()
        parts = contender.go()
        spent = server.processor_s() - before
        wall = max(p.ended for p in parts) - min(p.began for p in parts)
        n = executions * len(parts)
        client = sum(p.processor_s for p in parts)
        return Repeat(n / wall, 1000 * client / n, 1000 * spent / n)

    return turn


def _whole(server: common.Server, stack: common.Stack, executions: int) -> Any:
    def turn() -> Repeat:
        processes = stack.processes()
        before = server.processor_s(), common.processor_s(processes)
        wall = stack.batch("five", executions)
        spent = server.processor_s() - before[0]
        client = common.processor_s(processes) - before[1]
        return Repeat(executions / wall, 1000 * client / executions, 1000 * spent / executions)

    return turn


def _ratio(standings: dict[str, Standing], name: str, others: Sequence[str]) -> float:
    """Median rate over the best median of the others."""
    return standings[name].rate / max(standings[o].rate for o in others)


def _cpu_ratio(standings: dict[str, Standing], name: str, others: Sequence[str]) -> float:
    """The least processor time of the others over this one's: what a busy machine distorts less."""
    return min(standings[o].cpu_ms for o in others) / standings[name].cpu_ms


def _print(standings: dict[str, Standing]) -> None:
    header = (
        "",
        "per s",
        "x (i)",
        "x (ii)",
        "CPU ms",
        "x (i)",
        "x (ii)",
        "own + Postgres",
        "per s",
    )
    rows = [
        (
            name,
            f"{one.rate:.0f}",
            *(f"{_ratio(standings, name, of):.2f}" for of in ([DOCUMENTED], IMPROVED)),
            f"{one.cpu_ms:.2f}",
            *(f"{_cpu_ratio(standings, name, of):.2f}" for of in ([DOCUMENTED], IMPROVED)),
            f"{one.median('client_ms'):.2f} + {one.median('server_ms'):.2f}",
            " ".join(f"{repeat.rate:.0f}" for repeat in one.repeats),
        )
        for name, one in standings.items()
    ]
    common.table(header, rows)


def _targets(standings: dict[str, Standing]) -> list[common.Target]:
    limits = {"ours": (3.0, 2.0), common.BENCH: (2.0, 1.2)}
    found = []
    for name, (documented, improved) in limits.items():
        if name in standings:
            over = _ratio(standings, name, [DOCUMENTED])
            better = _ratio(standings, name, IMPROVED)
            found += [
                common.Target(f"{name}, times (i)", over, documented, at_least=True, unit="x"),
                common.Target(f"{name}, times (ii)", better, improved, at_least=True, unit="x"),
            ]
    return found
