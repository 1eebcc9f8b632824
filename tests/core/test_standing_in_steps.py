"""A whole workflow is explained in steps: what only waits is counted, and others have their turn between some thousand others."""

from dyrygentd.core.events import TaskFailed
from dyrygentd.core.standing import standings_in_steps
from tests.support.conversation import Conversation
from tests.support.stepping import standings, stepped

_COUNT = 45


def test_what_waits_is_counted_and_not_looked_at(conversation: Conversation) -> None:
    """However many wait for a gate: no step is needed for them, and the number and five names are told."""
    conversation.submit("; ".join(["first gate=1", *(f"n{number} < first" for number in range(_COUNT))]))
    workflow = conversation.workflow()
    assert list(standings_in_steps(conversation.engine, workflow, conversation.now, step=10)) == []
    [waiting] = [each for each in standings(conversation.engine, workflow, conversation.now) if each.code == "waiting"]
    assert (waiting.count, waiting.examples) == (_COUNT, ("n0", "n1", "n2", "n3", "n4"))


def test_others_have_their_turn_between_steps(conversation: Conversation) -> None:
    """What has failed is looked at some at a time, also where something is told apart; the answer is that of one piece."""
    conversation.submit("; ".join(f"n{number}" for number in range(_COUNT)))
    workflow = conversation.workflow()
    conversation.turn(*(TaskFailed(f"w/n{number}", "x", "Left" if number % 2 else "Right") for number in range(_COUNT)))
    for apart in (frozenset[int](), frozenset({3, 7})):
        whole = standings(conversation.engine, workflow, conversation.now, apart)
        assert sum(each.count for each in whole) == _COUNT
        steps = standings_in_steps(conversation.engine, workflow, conversation.now, apart, step=10)
        assert stepped(steps) == ((_COUNT - len(apart)) // 10, whole)


def test_what_has_gone_on_between_two_steps_is_left_out(conversation: Conversation) -> None:
    """A node that is held no more, or whose state has changed, is told with the next question."""
    conversation.submit("; ".join(f"n{number} gate=1" for number in range(4)))
    steps = standings_in_steps(conversation.engine, conversation.workflow(), conversation.now, step=1)
    next(steps)
    for number in range(4):
        conversation.ask("release", f"n{number}")
    _, found = stepped(steps)
    assert [each.code for each in found] in ([], ["succeeded"])
