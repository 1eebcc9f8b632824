"""What the end of an attempt makes of its node: success, another attempt or the next look of a poll, a failure, a hold.

Whether there is another attempt is decided by the node's retry policy, else by the workflow's; of a task that was lost, by what
its node says of loss. A workflow that a failure has stopped tries nothing again but what cleans up.
"""

from typing import Final

from dyrygentd.core.additions import Addition, Adds, Held
from dyrygentd.core.attempts import NOT_YET
from dyrygentd.core.lost_causes import fingerprint_of_lost
from dyrygentd.core.notes import Failure, Hold, HoldReason
from dyrygentd.core.policy import LOST_MAX, FailureKind, OnLost, Retry
from dyrygentd.core.references import as_kept
from dyrygentd.core.rules import cleans_up
from dyrygentd.core.states import NodeState
from dyrygentd.core.without_value import WITHOUT_VALUE
from dyrygentd.core.workflow import RunningWorkflow

#: How an attempt ended whose task has vanished.
LOST: Final = "lost"
_NOT_LISTED: Final = "the task adds to its chord, and is no member of any"
_BOTH: Final = "the task has added work, and what it returns is to be run (`expands`): it can do one of both"
#: JSON texts that Python takes for false: a poll that returns one of them asks again.
_FALSE: Final = frozenset({b"null", b"false", b"0", b"0.0", b"-0.0", b'""', b"[]", b"{}"})


def succeeded(
    workflow: RunningWorkflow, node: int, value: bytes | None, value_error: str, now: float, *, added: Addition | None = None
) -> None:
    """Finish a node whose task succeeded, or hold it for what that has added.

    A value that is needed but cannot be carried makes it failed.
    """
    if workflow.graph.policies:
        if _asks_again(workflow, node, value, now):
            return
        if workflow.graph.policy(node).expands:
            _expand(workflow, node, value, value_error, now, added)
            return
    problem = _problem_with(workflow, node, value, value_error)
    if added is None or problem or node in workflow.stale:
        _succeed(workflow, node, value, problem, now)
    elif added.kind is Adds.BEHIND and not _is_listed(workflow, node):
        _fail(workflow, node, Failure(_NOT_LISTED, FailureKind.REFUSED, fingerprint="add_to_chord"), now)
    else:
        is_needed = workflow.graph.value_uses[node] > 0
        _hold(workflow, node, Held(added, value if is_needed else None, value_error if is_needed else ""), now)


def child_succeeded(workflow: RunningWorkflow, node: int, result: bytes | None, error: str, now: float) -> None:
    """Finish a node whose work, or what its task has added, was done by a workflow of its own, with that one's result."""
    held = workflow.attempts.additions.get(node)
    match None if held is None else held.addition.kind:
        case Adds.BEHIND if result is None:
            _fail(workflow, node, Failure(f"the values of what its task has added are not there: {error}"), now)
        case Adds.BEHIND if not (result or b"").lstrip().startswith(b"["):
            _fail(workflow, node, Failure("the values of what its task has added are no list"), now)
        case (Adds.BESIDE | Adds.BEHIND) as kind:
            assert held is not None
            if kind is Adds.BEHIND and result is not None:
                workflow.values.put_behind(node, as_kept(result.strip()[1:-1].strip()))
            _succeed(workflow, node, held.value, _problem_with(workflow, node, held.value, held.value_error), now)
            workflow.values.forget_behind()
        case _:
            _succeed(workflow, node, result, _problem_with(workflow, node, result, error), now)


def _problem_with(workflow: RunningWorkflow, node: int, value: bytes | None, value_error: str) -> str:
    if not workflow.graph.value_uses[node]:
        return ""
    return f"{WITHOUT_VALUE}: {value_error}" if value is None else workflow.values.too_much(value)


def _succeed(workflow: RunningWorkflow, node: int, value: bytes | None, problem: str, now: float) -> None:
    if workflow.errors or workflow.fingerprints:
        workflow.errors.pop(node, None)
        workflow.fingerprints.pop(node, None)
    if workflow.attempts.sent_to:
        workflow.attempts.sent_to.pop(node, None)
    if problem:
        workflow.finish_node(node, workflow.values.state_without(node), now, error=problem)
    else:
        workflow.finish_node(node, NodeState.SUCCEEDED, now, value=value)


def _expand(
    workflow: RunningWorkflow, node: int, value: bytes | None, value_error: str, now: float, added: Addition | None
) -> None:
    """Hold a node for what its task has returned, which is to be run; what that is is found out by whoever begins it."""
    if node in workflow.stale:
        _succeed(workflow, node, None, "", now)
    elif added is not None:
        _fail(workflow, node, Failure(_BOTH, FailureKind.REFUSED, fingerprint="expands"), now)
    elif value is None:
        error = f"what its task has returned is no definition: {value_error}"
        _fail(workflow, node, Failure(error, FailureKind.REFUSED, fingerprint="expands"), now)
    else:
        _hold(workflow, node, Held(Addition(Adds.EXPANDS, value), None), now)


def _hold(workflow: RunningWorkflow, node: int, held: Held, now: float) -> None:
    problem = workflow.values.no_room_for(sum(map(len, held.texts)))
    if problem:
        error = f"there is no room for what its task has added: {problem}"
        _fail(workflow, node, Failure(error, FailureKind.INFRASTRUCTURE, fingerprint="no room"), now)
        return
    workflow.errors.pop(node, None)
    workflow.fingerprints.pop(node, None)
    workflow.attempts.additions.keep(node, held)
    # Whatever an earlier run has added was another workflow.
    workflow.attempts.begin_generation(node)
    workflow.attempts.finish(node, is_bad=False)
    workflow.holds[node] = Hold(HoldReason.CHILD)
    workflow.nodes.move(node, NodeState.HELD, now)


def _is_listed(workflow: RunningWorkflow, node: int) -> bool:
    """Tell whether a node's value is put into a list: it belongs to a group, or a chord's header."""
    graph = workflow.graph
    return any(graph.is_join(each) or graph.dependency_count(each) > 1 for each in graph.dependents(node))


def failed(workflow: RunningWorkflow, node: int, failure: Failure, now: float, *, chance: float = 0.0) -> None:
    """Finish a node whose task failed, or plan its next attempt; ``chance`` is from 0 to 1."""
    retry = workflow.retry_of(node)
    failures = workflow.attempts.failures.get(node, 0) + 1
    has_another = retry is not None and retry.applies_to(failure.kind, failure.exception, failures)
    if retry is not None and has_another and not (workflow.is_stopped and not cleans_up(workflow.graph.policy(node))):
        _try_again(workflow, node, failure, retry.pause_s(failures, chance), now)
    else:
        _fail(workflow, node, failure, now)


def lost(workflow: RunningWorkflow, node: int, error: str, now: float, *, chance: float = 0.0) -> None:
    """Decide about a node whose task has vanished from broker, workers and backend."""
    failure = Failure(error, FailureKind.INFRASTRUCTURE, fingerprint=fingerprint_of_lost(error))
    policy = workflow.graph.policy(node)
    match policy.lost:
        case _ if workflow.is_stopped and not cleans_up(policy):
            _fail(workflow, node, failure, now)
        case OnLost.HOLD:
            workflow.errors[node] = error
            workflow.again(node, NodeState.HELD, Hold(HoldReason.LOST), now, ended=LOST, error=error)
        case OnLost.RETRY if workflow.attempts.failures.get(node, 0) + 1 < LOST_MAX:
            retry = workflow.retry_of(node) or Retry()
            pause_s = retry.pause_s(workflow.attempts.failures.get(node, 0) + 1, chance)
            _try_again(workflow, node, failure, pause_s, now, ended=LOST)
        case _:
            _fail(workflow, node, failure, now)


def is_taken_for_lost(workflow: RunningWorkflow, node: int) -> bool:
    """Tell whether a node's last attempt was given up as lost, and its end would still be that of the node."""
    hold = workflow.holds.get(node)
    return hold is not None and (hold.reason is HoldReason.LOST or workflow.states[node] == NodeState.RETRYING)


def turned_up(workflow: RunningWorkflow, node: int, now: float) -> None:
    """Take the attempt back that was taken for lost: it is in flight after all."""
    workflow.attempts.take_back(node, workflow.attempts.of(node) - 1, now)
    del workflow.holds[node]
    workflow.errors.pop(node, None)
    workflow.fingerprints.pop(node, None)
    workflow.attempts.tried_again.forget(node)
    workflow.nodes.move(node, NodeState.DISPATCHED, now)


def ignored(workflow: RunningWorkflow, node: int, reason: str, now: float) -> None:
    """Skip a node whose task asked for it; what waits for its success is skipped as well, as a native chain stops."""
    workflow.unneeded.add(node)
    workflow.finish_node(node, NodeState.SKIPPED, now, error=reason)


def redeliveries_max(workflow: RunningWorkflow, node: int, default: int) -> tuple[int, str]:
    """Return how often the broker may give one attempt out again, 0 for as often as it likes, and who says so."""
    own = workflow.graph.policy(node).redeliveries_max if workflow.graph.policies else None
    if own is not None:
        return own, "the node's policy"
    if workflow.policy.redeliveries_max is not None:
        return workflow.policy.redeliveries_max, "the workflow's policy"
    return default, "the configuration"


def _asks_again(workflow: RunningWorkflow, node: int, value: bytes | None, now: float) -> bool:
    policy = workflow.graph.policy(node)
    if not policy.poll_every_s or value is None or value not in _FALSE:
        return False
    workflow.attempts.forget_failures(node)
    since = workflow.attempts.polling_since.get(node, now)
    if policy.poll_timeout_s and now + policy.poll_every_s > since + policy.poll_timeout_s:
        error = f"the poll did not return anything true within {policy.poll_timeout_s:g} s"
        _fail(workflow, node, Failure(error, FailureKind.INFRASTRUCTURE, fingerprint="poll timeout"), now)
    elif workflow.is_stopped and not cleans_up(workflow.graph.policy(node)):
        workflow.finish_node(node, NodeState.CANCELLED, now)
    else:
        workflow.again(node, NodeState.HELD, Hold(HoldReason.POLL, now + policy.poll_every_s), now, ended=NOT_YET)
    return True


def _try_again(
    workflow: RunningWorkflow, node: int, failure: Failure, pause_s: float, now: float, *, ended: str = NodeState.FAILED.word
) -> None:
    failures = workflow.attempts.failures[node] = workflow.attempts.failures.get(node, 0) + 1
    workflow.attempts.tried_again.failed(node, failure.fingerprint, failure.error, failures)
    workflow.errors[node] = failure.error
    workflow.fingerprints[node] = failure.fingerprint
    hold = Hold(HoldReason.RETRY, now + pause_s)
    workflow.again(node, NodeState.RETRYING, hold, now, ended=ended, error=failure.error)


def _fail(workflow: RunningWorkflow, node: int, failure: Failure, now: float) -> None:
    workflow.fingerprints[node] = failure.fingerprint
    workflow.finish_node(node, NodeState.FAILED, now, error=failure.error)
