"""Work on very many nodes in steps, between which whoever drives it may let others have their turn.

Such work is a generator that yields between two steps and returns what comes of it. It is one piece all the same: nobody may
change a workflow in between, and what it has changed reaches the disk in one transaction or not at all. What may change meanwhile
is who claims task ids (the door does), and which tasks are suspected to have been given out twice; so no step goes by what an
earlier one has read of that. Whoever does not care goes through it with `exhaust`.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]

#: Nodes in one step: some ten milliseconds.
STEP: Final = 2000


def exhaust(steps: Steps[T]) -> T:
    """Take all steps at once."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result


def parts(nodes: Iterable[int], *, step: int = 0) -> Iterator[tuple[bool, list[int]]]:
    """Cut nodes into steps, of `STEP` if nothing is said: ``(whether another one came before, nodes)``."""
    left, is_later = iter(nodes), False
    while part := list(islice(left, step or STEP)):
        yield is_later, part
        is_later = True


def reached(nodes: Iterable[int], following: Callable[[int], Iterable[int]], *, step: int = 0) -> Steps[set[int]]:
    """Return these nodes and all that is reached from them, where ``following`` tells which come after one."""
    found = set(nodes)
    layer: Iterable[int] = [*found]
    while layer:
        new: list[int] = []
        for is_later, part in parts(layer, step=step):
            if is_later:
                yield
            for node in part:
                for after in following(node):
                    if after not in found:
                        found.add(after)
                        new.append(after)
        layer = new
    return found
