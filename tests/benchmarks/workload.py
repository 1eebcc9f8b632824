"""A workload like nine months at OVHcloud: 936,248 tasks in 11,170 workflows, the largest of 4,098, in mixed shapes.

``python -m tests.benchmarks.workload --seed S --scale F --out FILE`` writes one definition a line, so that building them costs
nobody anything while something is measured. What is published of that workload are these three numbers. The sizes follow a
log-normal distribution, as those of automation do (many of a handful, few of thousands); the shapes are those of their canvases:
chains, groups, groups after groups, and hosts that are worked on in parallel, each through a chain of steps.
"""

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.benchmarks.shapes import TASK

TASKS: Final = 936_248
WORKFLOWS: Final = 11_170
LARGEST: Final = 4_098

#: Of the logarithm of the size: half have 29 tasks or fewer, one in ten 190 or more.
_SIGMA: Final = 1.45


class Planned(NamedTuple):
    """A workflow as it is to be submitted: ``after[n]`` are the nodes before ``n``; its tasks' ids are ``name.n``."""

    name: str
    shape: str
    after: Sequence[Sequence[int]]

    def task_id(self, node: int) -> str:
        """Return the id of a task."""
        return f"{self.name}.{node}"

    def body(self, policy: dict[str, Any] | None = None) -> str:
        """Return the definition as JSON text, with a policy for the whole of it."""
        nodes = [
            {"name": str(node), "task": TASK, "immutable": True, "task_id": self.task_id(node), "after": list(map(str, before))}
            for node, before in enumerate(self.after)
        ]
        document = {"name": self.shape, "nodes": nodes} | ({"policy": policy} if policy else {})
        return json.dumps(document, separators=(",", ":"))


def plan(seed: int, scale: float = 1.0) -> Iterator[Planned]:
    """Yield the workflows, the same ones for the same seed."""
    chance = random.Random(seed)
    count = max(2, round(WORKFLOWS * scale))
    total = round(TASKS * scale)
    for number, size in enumerate(_sizes(chance, count, total, min(LARGEST, total // 3))):
        shape = chance.choices(list(_SHAPES), weights=[2, 3, 2, 3])[0]
        yield Planned(f"w{number}", shape, _SHAPES[shape](size))


def _sizes(chance: random.Random, count: int, total: int, largest: int) -> list[int]:
    """Draw sizes that add up to ``total``, one of them the largest."""
    drawn = [chance.lognormvariate(0, _SIGMA) for _ in range(count - 1)]
    factor = (total - largest) / sum(drawn)
    sizes = [min(max(1, round(size * factor)), largest) for size in drawn]
    # Rounding and the bounds have shifted the sum.
    while (rest := total - largest - sum(sizes)) != 0:
        step = 1 if rest > 0 else -1
        for place in chance.sample(range(count - 1), min(abs(rest), count - 1)):
            if 1 <= sizes[place] + step < largest:
                sizes[place] += step
    sizes.insert(chance.randrange(count), largest)
    return sizes


def _chain(size: int) -> list[list[int]]:
    return [[node - 1] if node else [] for node in range(size)]


def _group(size: int) -> list[list[int]]:
    """A group, and what sums it up."""
    return [[] for _ in range(size - 1)] + [list(range(size - 1))]


def _stages(size: int) -> list[list[int]]:
    """Three groups one after the other, with a task between each two."""
    width = max(1, (size - 2) // 3)
    after: list[list[int]] = []
    before: list[int] = []
    while len(after) < size:
        group = list(range(len(after), min(size, len(after) + width)))
        after += [before] * len(group)
        if len(after) < size:
            before = [len(after)]
            after.append(group)
    return after


def _hosts(size: int) -> list[list[int]]:
    """A preparation, hosts in parallel through seven steps each, and an end."""
    if size < 4:
        return _chain(size)
    after: list[list[int]] = [[]]
    ends: list[int] = []
    for node in range(1, size - 1):
        is_first = (node - 1) % 7 == 0
        after.append([0] if is_first else [node - 1])
        if (node - 1) % 7 == 6 or node == size - 2:
            ends.append(node)
    return [*after, ends]


_SHAPES: Final = {"chain": _chain, "group": _group, "stages": _stages, "hosts": _hosts}


def main() -> None:
    """Write the definitions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--policy", type=json.loads, help="JSON of a policy for each workflow")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with arguments.out.open("w") as file:
        for workflow in plan(arguments.seed, arguments.scale):
            file.write(workflow.body(arguments.policy) + "\n")
    print(json.dumps({}))


if __name__ == "__main__":
    main()
