"""What a node's rule makes of how its dependencies ended. Pure functions; who asks, and when, is the workflow's business."""

from enum import Enum
from typing import NamedTuple

from dyrygentd.core.policy import Hook, NodePolicy, Rule


class Verdict(Enum):
    """What is to become of a waiting node."""

    WAIT = "wait"
    GO = "go"
    BLOCK = "block"
    SKIP = "skip"
    FAIL = "fail"


class How(NamedTuple):
    """How the dependencies of a node stand: whether it waits for any, and whether one was bad, good, or not needed.

    Attributes:
        good: How many were good.
    """

    waits: bool
    has_bad: bool
    has_good: bool
    has_unneeded: bool
    good: int = 0


def verdict_of(policy: NodePolicy, how: How) -> Verdict:
    """Return what becomes of a node whose dependencies stand so."""
    waits, has_bad, has_good, has_unneeded, good = how
    if policy.hook is not None:
        applies = policy.hook is Hook.ALWAYS or (policy.hook is Hook.FAILURE) == has_bad
        return Verdict.WAIT if waits else Verdict.GO if applies else Verdict.SKIP
    match policy.rule:
        case Rule.ALL_SUCCEEDED:
            return Verdict.BLOCK if has_bad else Verdict.WAIT if waits else Verdict.SKIP if has_unneeded else Verdict.GO
        case Rule.NONE_FAILED:
            return Verdict.BLOCK if has_bad else Verdict.WAIT if waits else Verdict.GO
        case Rule.ALL_FINISHED:
            return Verdict.WAIT if waits else Verdict.BLOCK if good < (policy.succeeded_min or 0) else Verdict.GO
        case Rule.ANY_FAILED:
            return Verdict.GO if has_bad else Verdict.WAIT if waits else Verdict.SKIP
        case Rule.ANY_SUCCEEDED:
            missed = Verdict.BLOCK if has_bad else Verdict.SKIP
            return Verdict.GO if has_good else Verdict.WAIT if waits else missed


def decides_at_once(policy: NodePolicy, *, is_bad: bool) -> bool:
    """Tell whether a dependency that ended so decides, whatever becomes of the others; saves looking at all each time."""
    if policy.hook is not None:
        return False
    match policy.rule:
        case Rule.ALL_SUCCEEDED | Rule.NONE_FAILED | Rule.ANY_FAILED:
            return is_bad
        case Rule.ANY_SUCCEEDED:
            return not is_bad
        case Rule.ALL_FINISHED:
            return False


def cleans_up(policy: NodePolicy) -> bool:
    """Tell whether a node still runs after a failure has stopped its workflow."""
    return policy.hook is not None or policy.section_end is not None or policy.rule in (Rule.ALL_FINISHED, Rule.ANY_FAILED)
