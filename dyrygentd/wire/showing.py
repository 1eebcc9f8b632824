"""Show what the core has, in the forms of `dyrygentd.wire.views`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from msgspec import UNSET, Raw

from dyrygentd.core.behind import behind
from dyrygentd.core.causes import failures_by_cause, lost_nodes
from dyrygentd.core.choices import words_of_provisos
from dyrygentd.core.for_people import gate_since, waits_for_person
from dyrygentd.core.records import JournalEntry, WorkflowRecord
from dyrygentd.core.retry_loops import StillTried, tried_again
from dyrygentd.core.tries import left_out, tries_of
from dyrygentd.core.user import User
from dyrygentd.core.verbs import cause_id
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.wire.parents import ChildView, view_above, view_of_parent
from dyrygentd.wire.views import AttemptView, Causes, CauseView, JournalView, NodeView, TriedView, WorkflowView

if TYPE_CHECKING:
    from dyrygentd.wire.words import KindWord, NodeWord

#: Causes of which it is told what comes after them: it costs a look at that.
_BEHIND_MAX = 100


def view_of_running(workflow: RunningWorkflow, *, with_result: bool = False) -> WorkflowView:
    """Show a workflow that is in memory."""
    return WorkflowView(
        id=workflow.workflow_id,
        name=workflow.name,
        state=workflow.state.value,
        created_at=workflow.origin.created_at,
        tasks=workflow.graph.task_count,
        counts=_present(workflow.nodes.counts_by_word()),
        finished_at=workflow.finished_at,
        key=workflow.origin.key,
        labels=dict(workflow.origin.labels),
        error=workflow.error,
        priority=workflow.priority,
        start_at=workflow.policy.start_at or None,
        deadline_at=(workflow.deadline_at or None) if not workflow.start.behind else None,
        **_owner(workflow.origin.owner),
        waits_for_person=waits_for_person(workflow),
        keeps_failing=workflow.attempts.tried_again.often,
        parent_task=view_of_parent(workflow.origin.parent_task),
        parent=view_above(workflow.origin.parent),
        series=workflow.origin.series.name if workflow.origin.series else "",
        if_running=workflow.origin.series.if_running.value if workflow.origin.series else "",
        queued_behind="" if workflow.state.is_finished else workflow.start.behind,
        stored_result=Raw(workflow.result) if with_result and workflow.result is not None else UNSET,
    )


def view_of_record(record: WorkflowRecord, *, with_result: bool = False) -> WorkflowView:
    """Show a workflow as it was stored."""
    return WorkflowView(
        id=record.workflow_id,
        name=record.name,
        state=record.state.value,
        created_at=record.created_at,
        tasks=record.task_count,
        counts=_present(record.counts or {}),
        finished_at=record.finished_at,
        key=record.key,
        labels=dict(record.labels),
        error=record.error,
        priority=record.priority,
        deadline_at=record.deadline_at or None,
        **_owner(record.owner),
        parent_task=view_of_parent(record.parent_task),
        parent=view_above(record.parent),
        series=record.series,
        if_running=record.if_running,
        queued_behind=record.queued_behind,
        stored_result=Raw(record.result) if with_result and record.result is not None else UNSET,
    )


def view_of_child(view: WorkflowView) -> ChildView:
    """Show a workflow beside the node whose work it is."""
    return ChildView(
        id=view.id,
        name=view.name,
        state=view.state,
        tasks=view.tasks,
        counts=view.counts,
        created_at=view.created_at,
        finished_at=view.finished_at,
        error=view.error,
        waits_for_person=view.waits_for_person,
    )


def view_of_node(workflow: RunningWorkflow, node: int, *, with_attempts: bool = False) -> NodeView:
    """Show one node.

    Args:
        with_attempts: Show its attempts even if there was only one.
    """
    graph = workflow.graph
    has_attempts = with_attempts or node in workflow.attempts.earlier
    signature = graph.signatures[node]
    blocked_by, policy, hold = workflow.blocked_by.get(node), graph.policy(node), workflow.holds.get(node)
    return NodeView(
        name=graph.names[node],
        state=cast("NodeWord", workflow.state_of(node).word),
        task=None if signature is None else signature.task,
        task_id=workflow.attempts.task_id_of(node) or None,
        attempt=workflow.attempts.of(node),
        after=[graph.names[dependency] for dependency in graph.dependencies(node)],
        reported=workflow.attempts.reported.get(node),
        error=workflow.errors.get(node),
        blocked_by=None if blocked_by is None else graph.names[blocked_by],
        dispatched_at=workflow.attempts.dispatched_at[node] or None,
        finished_at=workflow.nodes.finished_at[node] or None,
        kind=_kind(workflow, node),
        rule=policy.rule.value,
        pool=policy.pool or None,
        hold=None if hold is None else hold.reason.value,
        held_until=(hold.until or None) if hold is not None else None,
        is_on_hold=node in workflow.on_hold,
        cause=workflow.fingerprints.get(node),
        late=workflow.attempts.late.get(node),
        redelivered=workflow.attempts.redelivered.get(node, 0),
        is_unneeded=node in workflow.unneeded,
        when=words_of_provisos(graph.choices, node) or None if graph.choices.provisos else None,
        is_output=node == graph.output,
        section=graph.sections.of(node) or None,
        section_end=None if policy.section_end is None else policy.section_end.value,
        gate_since=gate_since(workflow, node),
        attempts=views_of_attempts(workflow, node) if has_attempts else [],
        attempts_left_out=left_out(workflow, node) if has_attempts else 0,
    )


def views_of_attempts(workflow: RunningWorkflow, node: int) -> list[AttemptView]:
    """Show the attempts of a node that are known, oldest first."""
    count, found = workflow.attempts.of(node), list[AttemptView]()
    for attempt, backoff_s, waited_s in tries_of(workflow, node):
        found.append(
            AttemptView(
                number=attempt.number,
                state=attempt.ended,
                sent_at=attempt.sent_at,
                task_id=workflow.attempts.task_id_of(node, back=count - attempt.number),
                started_at=attempt.started_at or None,
                ended_at=attempt.ended_at or None,
                backoff_s=backoff_s,
                waited_s=waited_s,
                worker=attempt.worker,
                error=attempt.error,
            )
        )
    return found


def causes_of(workflow: RunningWorkflow, now: float) -> Causes:
    """Group the failures of a workflow by cause, and what is tried again."""
    groups, lost = failures_by_cause(workflow), frozenset(lost_nodes(workflow))
    return Causes(
        failures=sum(len(nodes) for _, nodes in groups) - len(lost),
        lost=len(lost),
        tried_again=[_tried(each, now) for each in tried_again(workflow)],
        tried_again_count=len(workflow.attempts.tried_again.cause_of),
        causes=[
            CauseView(
                number=number,
                id=cause_id(fingerprint),
                cause=fingerprint,
                count=len(nodes),
                example=workflow.errors.get(nodes[0], ""),
                nodes=[workflow.graph.names[node] for node in nodes[:20]],
                lost=sum(node in lost for node in nodes),
                **(behind(workflow.graph, nodes)._asdict() if number <= _BEHIND_MAX else {}),
            )
            for number, (fingerprint, nodes) in enumerate(groups, start=1)
        ],
    )


def _tried(each: StillTried, now: float) -> TriedView:
    return TriedView(
        cause=each.fingerprint,
        count=each.count,
        failures=each.failures,
        nodes=list(each.nodes),
        most=each.most,
        text=each.words(now),
        error=each.error,
        next_at=each.next_at or None,
        since=each.since,
    )


def view_of_entry(entry: JournalEntry) -> JournalView:
    """Show an entry of the journal."""
    return JournalView(
        at=entry.at,
        verb=entry.verb,
        by=entry.by,
        why=entry.why,
        nodes=list(entry.nodes),
        count=entry.count,
        detail=entry.detail,
        workflow=entry.workflow_id,
    )


def _owner(owner: User | None) -> dict[str, Any]:
    """Return the fields that tell the owner; the number of another host's user means somebody else here."""
    if owner is None:
        return {}
    return {"owner_name": owner.words} if owner.host else {"owner": owner.number}


def _kind(workflow: RunningWorkflow, node: int) -> "KindWord":
    policy = workflow.graph.policy(node)
    if policy.is_told_the_end:
        return "hook"
    if policy.is_gate:
        return "gate"
    if policy.sleep_s:
        return "sleep"
    if policy.child is not None:
        return "workflow"
    if not workflow.graph.is_task(node):
        return "join"
    return "poll" if policy.poll_every_s else "task"


def _present(counts: Mapping[str, int]) -> dict[str, int]:
    return {word: count for word, count in counts.items() if count}
