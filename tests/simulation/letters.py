"""Clients of those that do not lead, in the simulation of standbys, and what must have become of their letters.

What is checked, of all letters, whoever has left them:

- each is answered in the end, however often those who wait for it were told *not yet*;
- a verb is carried out once if that is what was answered, and not at all if it was refused or has changed nothing;
- the verbs of one sender are carried out in the order in which they were left;
- a submission makes one workflow, whether it has a key or not, and none if it was refused.
"""

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import anyio

from dyrygentd import wire
from dyrygentd.core.graph import Definition
from dyrygentd.core.policy import WorkflowPolicy
from dyrygentd.core.verbs import Verb
from dyrygentd.errors import DyrygentError
from dyrygentd.ports.mailbox import LetterKind
from tests.simulation.members import ConnectionLost, Member, NotLeading
from tests.simulation.server import Server
from tests.simulation.world import BrokenPromise
from tests.support.conversation import parse_graph

if TYPE_CHECKING:
    from tests.simulation.standby import Standby


class LetterWriters:
    """Those who write letters without waiting for the answers. What they submit is held until it is cancelled, at the end."""

    def __init__(self, world: "Standby", server: Server, seed: float) -> None:
        self._world = world
        self._server = server
        self._chance = Random(seed)
        self._submitted: dict[str, str] = {}
        self._names = 0

    async def write(self) -> None:
        """Leave letters of several kinds in a row, at one that does not lead, again and again."""
        async with anyio.create_task_group() as letters:
            while not self._world.is_mended:
                await anyio.sleep(self._chance.expovariate(0.3))
                takers = [member for member in self._world.members if member.takes_letters]
                if takers:
                    letters.start_soon(self._write_some, self._chance.choice(takers))

    async def _write_some(self, member: Member) -> None:
        chance, world = self._chance, self._world
        async with anyio.create_task_group() as letters:
            if len(self._submitted) < 2 or chance.random() < 0.3:
                letters.start_soon(self._submit, member)
            known = [self._submitted[name] for name in sorted(self._submitted)]
            for workflow_id in chance.sample(known, min(len(known), chance.choice([1, 2, 3]))):
                verb = chance.choice([Verb.PAUSE, Verb.PAUSE, Verb.PAUSE, Verb.RESUME, Verb.RESUME, Verb.CANCEL, Verb.RETRY])
                letters.start_soon(self._ask, member, workflow_id, verb)
                await anyio.sleep(chance.choice([0.0, 0.05]))
            leader = world.leader()
            if leader is not None and chance.random() < 0.3:
                # Somewhere between taking the first letter and answering the last one.
                letters.start_soon(world.happen, "blow", leader)

    async def _submit(self, member: Member) -> None:
        """Submit without a key: nobody could do it again without there being two."""
        self._names += 1
        name = f"unkeyed{self._names}"
        definition = Definition(parse_graph("gate gate=1\nlast < gate", name), name, None, {}, policy=WorkflowPolicy())
        try:
            submitted = await self._world.request(member, f"submission of {name}", lambda it: it.submit_definition(definition))
        except (DyrygentError, ConnectionLost, NotLeading) as error:
            self._world.story.tell(f"submit {name} at {member.name}: {error}")
            return
        self._world.facts["letters with a submission"] += 1
        self._submitted[name] = submitted.id

    async def _ask(self, member: Member, workflow_id: str, verb: Verb) -> None:
        await self._world.ask(workflow_id, verb, at=member)
        self._world.facts["letters with a verb"] += 1

    def check_takeover(self) -> None:
        """Check that what was answered is there, as a workflow or a letter."""
        for name, workflow_id in self._submitted.items():
            if not self._world.is_there(workflow_id, self._server):
                raise BrokenPromise(f"P1: {name} was accepted and is not there")

    def check(self) -> None:
        """Check what has become of all letters, when there is none left."""
        self.check_takeover()
        box = self._server.box
        done = Counter((entry.letter, entry.workflow_id) for entry in self._server.changes if entry.letter)
        for (number, workflow_id), times in done.items():
            if times > 1:
                raise BrokenPromise(f"letter {number} has changed {workflow_id} {times} times")
        for number, answer in box.answers.items():
            letter, is_verb = box.left[number], box.left[number].kind is LetterKind.PERFORM
            has_changed = not answer.is_refused and (not is_verb or wire.decode(answer.answer, wire.Changed).is_changed)
            if is_verb and has_changed != ((number, letter.workflow_id) in done):
                raise BrokenPromise(f"letter {number} was told the opposite of what is so: {answer}")
            if not is_verb and not has_changed:
                raise BrokenPromise(f"letter {number} was refused, and could have been taken: {answer}")
        last: dict[object, int] = {}
        for number in [entry.letter for entry in self._server.changes if entry.letter]:
            sender = box.left[number].sender
            if number < last.get(sender, 0):
                raise BrokenPromise(f"letter {number} of {sender} was carried out after letter {last[sender]}")
            last[sender] = number
        twice = [
            key for key, times in Counter(each.key for each in self._server.records if each.key is not None).items() if times > 1
        ]
        if twice:
            raise BrokenPromise(f"P6: there are two with the keys {twice}")
        # Those with a key have it for their name.
        names = Counter(record.name for record in self._server.records)
        if any(times > 1 for times in names.values()):
            raise BrokenPromise(f"P6: submitted once, and there twice: {names}")
