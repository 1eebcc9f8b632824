"""What a node's rule makes of how its dependencies ended: the whole table."""

from itertools import product

import pytest

from dyrygentd.core.policy import Hook, NodePolicy, Rule
from dyrygentd.core.rules import How, Verdict, cleans_up, decides_at_once, verdict_of

WAITS, BAD, GOOD, UNNEEDED = (How(*(place == number for number in range(4))) for place in range(4))
#: ``{rule: what becomes of a node that still waits, and whose only dependency was bad, good or not needed}``
TABLE = {
    Rule.ALL_SUCCEEDED: "wait block go skip",
    Rule.NONE_FAILED: "wait block go go",
    Rule.ALL_FINISHED: "wait go go go",
    Rule.ANY_FAILED: "wait go skip skip",
    Rule.ANY_SUCCEEDED: "wait block go skip",
}
HOOKS = {Hook.SUCCESS: "wait skip go go", Hook.FAILURE: "wait go skip skip", Hook.ALWAYS: "wait go go go"}


@pytest.mark.parametrize("rule", Rule)
def test_one_dependency(rule: Rule) -> None:
    """Each rule says what it is called: a user relies on the word alone."""
    assert [verdict_of(NodePolicy(rule=rule), how).value for how in (WAITS, BAD, GOOD, UNNEEDED)] == TABLE[rule].split()


@pytest.mark.parametrize("hook", Hook)
def test_hooks(hook: Hook) -> None:
    """A hook waits for everything, and is decided by whether anything was bad; its rule does not matter."""
    policy = NodePolicy(hook=hook, rule=Rule.ANY_FAILED)
    assert [verdict_of(policy, how).value for how in (WAITS, BAD, GOOD, UNNEEDED)] == HOOKS[hook].split()
    assert verdict_of(policy, How(True, True, True, True)) is Verdict.WAIT
    assert not decides_at_once(policy, is_bad=True)


@pytest.mark.parametrize(("rule", "is_bad"), [*product(Rule, (False, True))])
def test_deciding_at_once_changes_no_verdict(rule: Rule, is_bad: bool) -> None:
    """What one dependency decides, none that follows may undo; what it does not, waits for the others."""
    policy = NodePolicy(rule=rule)
    decided = decides_at_once(policy, is_bad=is_bad)
    first = How(True, is_bad, not is_bad, False)
    assert (verdict_of(policy, first) is not Verdict.WAIT) == decided
    if decided:
        last = [
            How(False, is_bad or bad, not is_bad or good, unneeded) for bad, good, unneeded in product((False, True), repeat=3)
        ]
        assert {verdict_of(policy, how) for how in last} == {verdict_of(policy, first)}


def test_what_cleans_up_runs_after_a_stop() -> None:
    """A failure that stops a workflow must not stop what is there for failures."""
    assert {rule for rule in Rule if cleans_up(NodePolicy(rule=rule))} == {Rule.ALL_FINISHED, Rule.ANY_FAILED}
    assert all(cleans_up(NodePolicy(hook=hook)) for hook in Hook)
