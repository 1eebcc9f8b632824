"""What becomes of a waiting node, by how all that it waits for stands: dependencies, the rest of the workflow or of a section.

Where a section's end is concerned:

- It waits for its scope (`dyrygentd.core.section_ends`) and, a ``finally``, for its own dependencies as well, by its rule.
- Of a section that never began there is nothing to clean up or to tell: neither its ``finally`` nor its hooks are needed. It has
  begun when a node of it was sent once, or has finished in another way than blocked, cancelled or not needed.
- To what waits for it a ``finally`` stands for its section: it has succeeded only if all of that has. So a clean-up that went
  well does not have the next section begin after a failure.
"""

from typing import Final, Protocol

from dyrygentd.core.attempts import Attempts
from dyrygentd.core.graph import Graph
from dyrygentd.core.kept_values import KeptValues
from dyrygentd.core.node_states import NodeStates
from dyrygentd.core.policy import Hook, Rule, SectionEnd
from dyrygentd.core.rules import How, Verdict, decides_at_once, verdict_of
from dyrygentd.core.states import BAD, FINISHED, GOOD, NodeState


class Deciding(Protocol):
    """What is decided by: a `RunningWorkflow`, which asks."""

    graph: Graph
    nodes: NodeStates
    states: bytearray
    attempts: Attempts
    values: KeptValues
    unneeded: set[int]
    blocked_by: dict[int, int]

    def state_of(self, node: int) -> NodeState:
        """Return the state of a node."""


#: Rules that let a node go while it waits for some.
_EARLY: Final = (Rule.ANY_SUCCEEDED, Rule.ANY_FAILED)


def verdict(workflow: Deciding, node: int) -> tuple[Verdict, int]:
    """Return what becomes of a node, and who is to blame if it is blocked."""
    nodes, policy = workflow.nodes, workflow.graph.policy(node)
    if policy.hook is not None:
        how = How(nodes.unfinished > nodes.hooks_open, nodes.has_failed_work, has_good=False, has_unneeded=False)
        return verdict_of(policy, how), -1
    if policy.section_end is not None:
        early = _of_section(workflow, node, policy.section_end)
        if early is not None:
            return early, -1
    blame, good, has_unneeded = -1, 0, False
    for dependency in workflow.graph.dependencies(node):
        bad = bad_in(workflow, dependency, node)
        if bad >= 0:
            blame = bad if blame < 0 else blame
        elif dependency in workflow.unneeded:
            has_unneeded = True
        elif workflow.states[dependency] in GOOD:
            good += 1
    how = How(bool(nodes.unmet[node]), blame >= 0, good > 0, has_unneeded, good)
    return verdict_of(policy, how), workflow.blocked_by.get(blame, blame)


def may_be_decided(workflow: Deciding, node: int, finished: int) -> bool:
    """Tell whether a waiting node that has a policy can be decided after this one of its dependencies has finished."""
    policy = workflow.graph.policy(node)
    if policy.hook is not None:
        return False  # It waits for all, and not only for the ends of the graph.
    if not workflow.nodes.unmet[node]:
        return True
    if policy.section_end is not None:
        return False
    at_once = decides_at_once(policy, is_bad=workflow.states[finished] in BAD)
    deciders = workflow.graph.choices.deciders.get(node, ())
    if not deciders or policy.rule not in _EARLY:
        return at_once
    # It goes early, and only when nobody who decides is missing: until then there is no need to look at all that it waits for.
    return (at_once or finished in deciders) and all(workflow.states[each] in FINISHED for each in deciders)


def bad_in(workflow: Deciding, dependency: int, node: int) -> int:
    """Return what did not succeed of a dependency of a node, as far as that counts for it; -1 if nothing."""
    if workflow.states[dependency] in BAD:
        return dependency
    counts = workflow.nodes.sections
    if counts is None or not counts.ends.ends_finally(dependency):
        return -1
    scope = counts.ends.ended_by[dependency]
    if not counts.bad[scope] or counts.ends.ended_by.get(node) == scope or workflow.states[dependency] not in GOOD:
        return -1
    return first_bad(workflow, scope)


def first_bad(workflow: Deciding, scope: int) -> int:
    """Return a node of a scope that did not succeed, of those that failed the first; there is one."""
    counts, states = workflow.nodes.sections, workflow.states
    assert counts is not None
    known = counts.to_blame.get(scope)
    if known is None or states[known] not in BAD:
        bad = [node for node in counts.ends.nodes_in(scope) if states[node] in BAD]
        known = min(bad, key=lambda node: (states[node] != NodeState.FAILED, workflow.nodes.finished_at[node], node))
        counts.to_blame[scope] = known
    return known


def has_begun(workflow: Deciding, scope: int) -> bool:
    """Tell whether anything of a scope ran, or was done in the place of that."""
    counts = workflow.nodes.sections
    assert counts is not None
    known = counts.begun.get(scope)
    if known is None:
        known = counts.begun[scope] = any(ran(workflow, node) for node in counts.ends.nodes_in(scope))
    return known


def ran(workflow: Deciding, node: int) -> bool:
    """Tell whether a node was sent, if only before it was set back, as nobody may have cleaned up yet, or did what there was."""
    if workflow.attempts.of(node):
        return True
    match workflow.state_of(node):
        case NodeState.SUCCEEDED | NodeState.FAILED:
            return not workflow.graph.is_join(node)
        case NodeState.CANCELLED:
            # Whether its workflow had begun is not noted; better once too often than not at all.
            return workflow.graph.is_child(node)
        case NodeState.SKIPPED:
            return node not in workflow.unneeded
        case _:
            return False


def _of_section(workflow: Deciding, node: int, end: SectionEnd) -> Verdict | None:
    """Return what becomes of a section's end; None of a ``finally`` of which its rule decides."""
    counts = workflow.nodes.sections
    assert counts is not None
    scope = counts.ends.ended_by[node]
    if counts.open[scope] or workflow.nodes.unmet[node]:
        return Verdict.WAIT
    if not has_begun(workflow, scope):
        return Verdict.SKIP
    if end is SectionEnd.FINALLY:
        return None
    policy_says = Hook(end.value)
    applies = policy_says is Hook.ALWAYS or (policy_says is Hook.FAILURE) == bool(counts.bad[scope])
    return Verdict.GO if applies else Verdict.SKIP
