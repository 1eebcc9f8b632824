"""Work in steps, counted or all at once."""

from dyrygentd.core.engine import Engine
from dyrygentd.core.standing import Standing, standings_in_steps
from dyrygentd.core.steps import Steps, T, exhaust
from dyrygentd.core.workflow import RunningWorkflow


def standings(engine: Engine, workflow: RunningWorkflow, now: float, apart: frozenset[int] = frozenset()) -> list[Standing]:
    """Say how the nodes of a workflow stand, without a turn for others in between."""
    return exhaust(standings_in_steps(engine, workflow, now, apart))


def stepped(steps: Steps[T]) -> tuple[int, T]:
    """Go through all steps; return how often others had their turn, and what came of it."""
    count = 0
    while True:
        try:
            next(steps)
            count += 1
        except StopIteration as done:
            return count, done.value
