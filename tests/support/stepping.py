"""Work in steps, counted."""

from dyrygentd.core.steps import Steps, T


def stepped(steps: Steps[T]) -> tuple[int, T]:
    """Go through all steps; return how often others had their turn, and what came of it."""
    count = 0
    while True:
        try:
            next(steps)
            count += 1
        except StopIteration as done:
            return count, done.value
