"""What the simulation of standbys has to notice: faults put into the product or the servers, each as a patch.

``python -m tests.simulation.mutants [--seeds 100]`` tells how many seeds notice each.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import anyio

from dyrygentd.daemon import succession
from dyrygentd.ports.facts import Holder, Term
from dyrygentd.ports.mailbox import Letter
from dyrygentd.scheduler import leadership
from dyrygentd.scheduler.leadership import Leadership
from dyrygentd.scheduler.letters import Letters
from dyrygentd.scheduler.shell import Scheduler
from dyrygentd.scheduler.submissions import Submissions
from dyrygentd.scheduler.tenure import Tenure
from tests.simulation import server, standby, takeover
from tests.simulation.box import Box
from tests.simulation.runs import Outcome
from tests.simulation.server import Server
from tests.simulation.world import Dispatcher


def _take_without_session(at: Server, process: str, holder: Holder) -> int:
    before = at.session
    taken = _take(at, process, holder)
    if taken:
        at.session = max(before, 1)
    return taken and at.session


def _trust_from_the_answer(own: Leadership, _: float) -> None:
    _trust_from(own, own._steady())


async def _drain_after_resigning(scheduler: Scheduler, *arguments: Any, **options: Any) -> bool:
    lease = scheduler._adapters.store.lease
    assert lease is not None
    await lease.resign()
    return await _drain(scheduler, *arguments, **options)


async def _look_without_answer(tenure: Tenure, *arguments: Any) -> tuple[bool, Term | None]:
    """Have the broker be told of the term by the first look that follows."""
    _, known = await _first_look(tenure, *arguments)
    return False, known


async def _nothing(*_: Any) -> None:
    """Do nothing."""


async def _yes(*_: Any) -> bool:
    return True


def _take_and_forget(box: Box, *arguments: Any) -> list[Letter]:
    taken = _take_letters(box, *arguments)
    for letter in taken:
        del box._letters[letter.number]
    return taken


async def _take_in_anew(submissions: Submissions, *arguments: Any, made: str = "", **options: Any) -> str:
    return await _take_in(submissions, *arguments, **options)


async def _carry_out_late(letters: Letters, letter: Letter, before: Any, begun: anyio.Event) -> None:
    """Carry it out without waiting for the one before, and the odd ones somewhat later."""
    await anyio.sleep(0.2 * (letter.number % 2))
    await _carry_out(letters, letter, None, begun)


_take_letters, _take_in, _carry_out = Box.take, Submissions._take_in, Letters._carry_out
_first_look = Tenure._first_look
_take, _drain, _trust_from = Server.take, Scheduler.drain, Leadership._trust_from


@dataclass(frozen=True)
class Mutant:
    """Something that is wrong.

    Attributes:
        put_in: Has it be so.
        play: Plays a seed of the simulation that has to notice it.
    """

    put_in: Callable[[], Any]
    play: Callable[[int], Outcome] = standby.run


_with_letters = partial(standby.run, has_letters=True)

#: ``{what is wrong: how to put it in}``.
MUTANTS: Mapping[str, Mutant] = {
    "the broker refuses nobody": Mutant(lambda: patch.object(Dispatcher, "_refuse_if_fenced", lambda _: None)),
    "the broker is told of the term after reading": Mutant(
        lambda: patch.object(Tenure, "_first_look", _look_without_answer), takeover.run
    ),
    "answers are not confirmed": Mutant(lambda: patch.object(Tenure, "confirm", _nothing)),
    "answers are confirmed by the broker alone": Mutant(
        lambda: patch.multiple(Leadership, confirm=_nothing, confirm_anew=_nothing)
    ),
    "answers are confirmed by the lease alone": Mutant(lambda: patch.object(Tenure, "_is_broker_sure", _yes)),
    "a letter is forgotten once it is taken": Mutant(lambda: patch.object(Box, "take", _take_and_forget), _with_letters),
    "a letter's workflow gets another id": Mutant(lambda: patch.object(Submissions, "_take_in", _take_in_anew), _with_letters),
    "letters are begun in any order": Mutant(lambda: patch.object(Letters, "_carry_out", _carry_out_late), _with_letters),
    "what a letter has changed is not noted": Mutant(lambda: patch.object(Box, "note", lambda *_: None), _with_letters),
    "whoever is overtaken by another one ends": Mutant(lambda: patch.object(succession, "_is_by_a_copy", _yes)),
    "the lease is trusted too long": Mutant(lambda: patch.object(leadership, "_MARGIN", -2.0)),
    "the lease is trusted from the answer": Mutant(lambda: patch.object(Leadership, "_trust_from", _trust_from_the_answer)),
    "a take does not raise the session": Mutant(lambda: patch.object(Server, "take", _take_without_session)),
    "the server has another time to live": Mutant(lambda: patch.object(server, "TTL_S", 2.0)),
    "resigned before the end": Mutant(lambda: patch.object(Scheduler, "drain", _drain_after_resigning)),
    "an overtaken one may write": Mutant(
        lambda: patch.object(Server, "take_turn", lambda self, process, session: self.prolong())
    ),
}


def noticed(name: str, seeds: range) -> Iterator[str]:
    """Iterate over what the seeds say that notice a mutant."""
    mutant = MUTANTS[name]
    with mutant.put_in():
        for seed in seeds:
            if problem := mutant.play(seed).problem:
                yield problem


def main() -> int:
    """Try all of them; return 1 if one is not noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    missed = 0
    for name in MUTANTS:
        if arguments.only in name:
            found = list(noticed(name, range(1, arguments.seeds + 1)))
            missed += not found
            print(f"{len(found):4} of {arguments.seeds}: {name}: {found[0][:110] if found else 'NOT NOTICED'}", flush=True)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
