"""Why is it not running? The engine's own answer; what happens at the broker and the workers is added by the shell.

Pure reading: nothing here changes anything. One node costs its dependencies, a whole workflow one look at each node that has
failed, is tried again or held; the others are counted and not looked at. It goes in steps, so that others have their turn.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from dyrygentd.core.cancelled import STEPS_BACK_MAX, group_of_cancelled, waited_for, words_of_cancelled
from dyrygentd.core.cancelling import is_being_cancelled
from dyrygentd.core.causes import fingerprint_of
from dyrygentd.core.child_causes import CHILD_REFUSED, failed_below
from dyrygentd.core.children import parent_of
from dyrygentd.core.deciding import UNDECIDED
from dyrygentd.core.dispatching import Bar, HoldBack
from dyrygentd.core.engine import Engine
from dyrygentd.core.for_people import FOR_PEOPLE, waits_for_person
from dyrygentd.core.given_null import words_of_given_null
from dyrygentd.core.lost_causes import ENDED_SILENTLY, EXPIRED
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.retry_loops import times_in_a_row, words_of_loops
from dyrygentd.core.section_words import words_of_waited_for
from dyrygentd.core.states import BAD, FINISHED, IN_FLIGHT, NodeState, WorkflowState
from dyrygentd.core.steps import Steps
from dyrygentd.core.task_words import (
    words_of_clocks,
    words_of_failures,
    words_of_place,
    words_of_redeliveries,
    words_of_report,
)
from dyrygentd.core.unneeded import next_step_of_undecided, words_of_unneeded
from dyrygentd.core.without_value import is_without_value
from dyrygentd.core.words import counted, span
from dyrygentd.core.workflow import RunningWorkflow

#: Names given as examples.
_NAMED_MAX: Final = 5
#: Nodes looked at in one step: some milliseconds' work.
_STEP: Final = 5000


@dataclass(frozen=True, slots=True)
class Standing:
    """How a node, or a group of nodes with the same answer, stands.

    Attributes:
        code: A stable word for programs.
        text: The answer, in words.
        next_step: What a person can do; empty if there is nothing to do.
        node: Its name, or the first of the group.
        count: How many nodes it is about.
        examples: Names of the first few.
        is_urgent: It waits for a workflow in which something waits for a person, or has failed.
    """

    code: str
    text: str
    next_step: str
    node: str
    count: int = 1
    examples: tuple[str, ...] = ()
    is_urgent: bool = False


def standing_of_node(engine: Engine, workflow: RunningWorkflow, node: int, now: float) -> Standing:
    """Say why a node is not running, or how it ended."""
    if workflow.state_of(node) is NodeState.WAITING:
        return _waiting(engine, workflow, node, now)
    return _standing(engine, workflow, node, now)


def standings_in_steps(
    engine: Engine, workflow: RunningWorkflow, now: float, apart: frozenset[int] = frozenset(), *, step: int = _STEP
) -> Steps[list[Standing]]:
    """Say how the nodes of a workflow stand that have not succeeded, those first for which somebody can do something.

    Args:
        apart: Nodes that are told apart from others in the same state, whatever it is.
        step: Nodes looked at at one time; the workflow may go on in between.
    """
    groups: dict[tuple[int, str, str], _Group] = {}
    for node in sorted(apart):
        groups.setdefault((-1, workflow.state_of(node).word, ""), _Group()).add(workflow, node)
    for state in _RANKS:
        count = workflow.states.count(state) - sum(workflow.states[node] == state for node in apart)
        if count <= 0:
            continue
        others = (node for node in workflow.nodes.each_in(state) if node not in apart)
        if state not in _LOOKED_AT:
            groups[_RANKS[state], state.word, ""] = _Group(count, [*islice(others, _NAMED_MAX)])
            continue
        for number, node in enumerate(others, start=1):
            groups.setdefault(_group_of(workflow, node), _Group()).add(workflow, node)
            if number % step == 0:
                yield
    found = []
    for key in sorted(groups, key=lambda key: key[:2]):
        group = groups[key]
        standing = _in_a_group(workflow, group.first, standing_of_node(engine, workflow, group.first, now))
        names = tuple(workflow.graph.names[node] for node in group.nodes)
        found.append(Standing(standing.code, standing.text, standing.next_step, standing.node, count=group.count, examples=names))
    return found


@dataclass(slots=True)
class _Group:
    """Nodes with something in common: how many, the first few, and of those in flight the one that has been longest."""

    count: int = 0
    nodes: list[int] = field(default_factory=list)
    oldest: int | None = None

    @property
    def first(self) -> int:
        """The one that speaks for all."""
        return self.nodes[0] if self.oldest is None else self.oldest

    def add(self, workflow: RunningWorkflow, node: int) -> None:
        """Take a node in."""
        self.count += 1
        if self.count <= _NAMED_MAX:
            self.nodes.append(node)
        if workflow.state_of(node) in IN_FLIGHT and (
            self.oldest is None or workflow.attempts.dispatched_at[node] < workflow.attempts.dispatched_at[self.oldest]
        ):
            self.oldest = node


def headline(engine: Engine, workflow: RunningWorkflow, now: float) -> str:
    """Say in one sentence how a workflow stands, and what keeps failing in it."""
    return f"{_headline(engine, workflow, now)}{words_of_loops(workflow, now)}"


def _headline(engine: Engine, workflow: RunningWorkflow, now: float) -> str:
    in_flight = workflow.nodes.in_flight_count
    match workflow.state:
        case WorkflowState.SCHEDULED:
            return _not_begun(workflow, now)
        case WorkflowState.PAUSED:
            return f"it is paused: nothing is dispatched until `resume`; {counted(in_flight, 'task')} in flight"
        case WorkflowState.SUCCEEDED:
            return "it has succeeded"
        case WorkflowState.FAILED:
            failures = workflow.states.count(NodeState.FAILED)
            if not failures:
                cancelled = workflow.states.count(NodeState.CANCELLED)
                return f"it has failed: {counted(cancelled, 'node')} {'was' if cancelled == 1 else 'were'} cancelled before"
            causes = len(set(workflow.fingerprints.values())) + (failures > len(workflow.fingerprints))
            return f"it has failed: {counted(failures, 'failure')}, {counted(causes, 'cause')}"
        case WorkflowState.CANCELLED:
            return "it was cancelled"
        case WorkflowState.RUNNING if is_being_cancelled(workflow):
            return f"{workflow.error}: {counted(in_flight, 'task')} in flight; `cancel --force` ends it now"
        case WorkflowState.RUNNING:
            if in_flight:
                return f"it is running: {counted(in_flight, 'task')} in flight"
            if workflow.ready_count:
                return (
                    f"{counted(workflow.ready_count, 'node')} ready, none in flight: {_why_not_dispatched(engine, workflow)[0]}"
                )
            return f"nothing is in flight: {_what_holds(workflow)}"


def _not_begun(workflow: RunningWorkflow, now: float) -> str:
    run, series = workflow.start.behind, workflow.origin.series
    if run and series is not None:
        return f"it begins when run {run[:8]} of its series '{series.name}' has ended; `release` starts it now, beside that one"
    return f"it starts in {span(workflow.policy.start_at - now)}"


def _what_holds(workflow: RunningWorkflow) -> str:
    """Say what a workflow waits for of which nothing is in flight: people first."""
    wanted = waits_for_person(workflow)
    parts = [
        f"{counted(count, _WANTED[word])} {'waits' if count == 1 else 'wait'} for a person" for word, count in wanted.items()
    ]
    children = sum(hold.reason is HoldReason.CHILD for hold in workflow.holds.values())
    if children:
        parts.append(f"{counted(children, 'node')} {'waits for its workflow' if children == 1 else 'wait for their workflows'}")
    rest = len(workflow.holds) - sum(wanted.values()) - children
    if rest or not parts:
        parts.append(f"{counted(rest, 'node')} held or waiting for another attempt")
    return ", ".join(parts)


_WANTED: Final = {"lost": "lost node", "gate": "gate", "operator": "held node"}


# --- one node -------------------------------------------------------------------------------------------------------


def _waiting(engine: Engine, workflow: RunningWorkflow, node: int, now: float) -> Standing:
    """Follow what a node waits for to where somebody, or something, can be named."""
    names = workflow.graph.names
    if not workflow.has_begun:
        step = "`release`" if workflow.state is WorkflowState.SCHEDULED else "`resume`"
        return Standing(workflow.state.value, headline(engine, workflow, now), step, names[node])
    before = waited_for(workflow, node)
    open_ones = [other for other in before if workflow.state_of(other) not in FINISHED]
    total = len(before)
    root = _root(workflow, node)
    if root == node:
        return Standing("waiting", f"'{names[node]}' is about to be decided", "", names[node])
    below = _standing(engine, workflow, root, now)
    what = words_of_waited_for(workflow, node)
    way = f"'{names[node]}' waits for {len(open_ones)} of {total} {what}, first '{names[open_ones[0]]}'"
    if root != open_ones[0]:
        way += f", which waits in the end for '{names[root]}'"
    held = "; besides, an operator holds it" if node in workflow.on_hold else ""
    return Standing("waiting", f"{way}: {below.text}{held}", below.next_step, names[node])


def _in_a_group(workflow: RunningWorkflow, node: int, standing: Standing) -> Standing:
    """Say no more than its name of a lost task that others wait for: it has a group of its own, with commands for all of it."""
    if standing.code != "waiting":
        return standing
    root = _root(workflow, node)
    hold, error = workflow.holds.get(root), workflow.errors.get(root, "")
    if hold is None or hold.reason is not HoldReason.LOST or not error:
        return standing
    text = standing.text.replace(f": {error.removeprefix('its task is lost: ')}", "", 1)
    return replace(standing, text=text, next_step="")


def _root(workflow: RunningWorkflow, node: int) -> int:
    for _ in range(STEPS_BACK_MAX):  # pragma: no branch - nobody waits for a test of so long a way
        if workflow.state_of(node) is not NodeState.WAITING:
            break
        following = next((other for other in waited_for(workflow, node) if workflow.state_of(other) not in FINISHED), None)
        if following is None:
            break
        node = following
    return node


def _standing(engine: Engine, workflow: RunningWorkflow, node: int, now: float) -> Standing:
    name = workflow.graph.names[node]
    code, text, next_step = _words(engine, workflow, node, now)
    return Standing(code, f"'{name}' {text}", next_step.replace("NODE", name), name)


def _words(engine: Engine, workflow: RunningWorkflow, node: int, now: float) -> tuple[str, str, str]:
    error = workflow.errors.get(node, "")
    attempt = workflow.attempts.of(node)
    match workflow.state_of(node):
        case NodeState.WAITING:
            return "waiting", "waits for its dependencies", ""
        case NodeState.HELD:
            return _held(workflow, node, now)
        case NodeState.READY:
            reason, next_step = _why_not_dispatched(engine, workflow)
            return "ready", f"is ready: {reason}", next_step
        case NodeState.DISPATCHING:
            since = span(now - workflow.attempts.dispatched_at[node])
            return (
                "dispatching",
                f"is on its way to the broker since {since}",
                "`dyrygentctl stats` tells whether the broker answers",
            )
        case NodeState.DISPATCHED:
            since = span(now - workflow.attempts.dispatched_at[node])
            seen = (
                words_of_report(workflow, node)
                + words_of_redeliveries(engine, workflow, node)
                + words_of_failures(workflow, node)
            )
            return "dispatched", f"has been in the broker or at a worker for {since} (attempt {attempt}{seen})", ""
        case NodeState.RETRYING:
            hold, often = workflow.holds[node], times_in_a_row(workflow, node)
            again = f"is tried again in {span(hold.until - now)}"
            return (
                "retrying",
                f"failed{often} in attempt {attempt} ({error}{words_of_place(workflow, node)}) and {again}",
                "`retry NODE` tries at once, `skip NODE` goes on without it",
            )
        case NodeState.SUCCEEDED:
            return "succeeded", f"has succeeded in attempt {attempt}" if attempt else "has succeeded", ""
        case NodeState.SKIPPED if node in workflow.unneeded:
            return "unneeded", *words_of_unneeded(workflow, node)
        case NodeState.SKIPPED:
            return "skipped", "was skipped by an operator", "`rerun --from NODE` runs it"
        case NodeState.FAILED:
            late = f"; its task ended as {workflow.attempts.late[node]} later" if node in workflow.attempts.late else ""
            step = "`retry NODE`, or `skip NODE` to go on without it"
            if is_without_value(error):
                step = "`skip NODE --value null` goes on without it; `retry NODE` runs it again, for the same end"
            given, instead = words_of_given_null(workflow, node)
            if workflow.fingerprints.get(node, "").startswith(UNDECIDED):
                return "failed", f"failed before it ran: {error}", next_step_of_undecided(workflow, node)
            if workflow.fingerprints.get(node, "").startswith(CHILD_REFUSED):
                step = _next_step_of_refused(workflow, node)
            elif below := failed_below(workflow.fingerprints.get(node, ""), error):
                step = f"dyrygentctl explain {below}; then {step}"
            told = f"{error}{words_of_place(workflow, node)}{words_of_clocks(workflow, node)}{given}{late}"
            return "failed", f"failed{f' in attempt {attempt}' if attempt else ''}: {told}", instead or step
        case NodeState.CANCELLED:
            return "cancelled", *words_of_cancelled(workflow, node)
        case NodeState.BLOCKED:
            blame = workflow.graph.names[workflow.blocked_by.get(node, node)]
            return "blocked", f"never ran, because of '{blame}'{_others_to_blame(workflow, node)}", f"retry or skip '{blame}'"


def _next_step_of_refused(workflow: RunningWorkflow, node: int) -> str:
    """Say what to run again where a workflow could not be begun: the task that has returned something else than is needed."""
    graph = workflow.graph
    if graph.signatures[node] is not None:
        return "`rerun --from NODE` runs its task again, or `skip NODE` to go on without it"
    if graph.input_count(node) == 1 and (before := graph.last_dependency(node)) is not None:
        return f"`rerun --from {graph.names[before]}` makes anew what it is given, `skip NODE` goes on without it"
    return "`retry NODE`, or `skip NODE` to go on without it"


def _others_to_blame(workflow: RunningWorkflow, node: int) -> str:
    """Tell how many more dependencies have not succeeded: to retry or skip the one that is named is not enough then."""
    open_ones = sum(workflow.state_of(other) in BAD for other in workflow.graph.dependencies(node))
    return f" and {open_ones - 1:,} more of its dependencies" if open_ones > 1 else ""


def _held(workflow: RunningWorkflow, node: int, now: float) -> tuple[str, str, str]:
    hold = workflow.holds[node]
    left = span(hold.until - now)
    match hold.reason:
        case HoldReason.GATE:
            return "gate", "is a gate and waits for an operator", "`release NODE` opens it"
        case HoldReason.OPERATOR:
            return "hold", "is held by an operator", "`release NODE` lets it go"
        case HoldReason.TIME:
            return "time", f"waits for its time, another {left}", "`release NODE` lets it go now"
        case HoldReason.POLL:
            asked = workflow.attempts.of(node)
            often = "once" if asked == 1 else f"{asked} times"
            return "poll", f"asked {often} and asks again in {left}", "`release NODE` asks now"
        case HoldReason.POOL:
            return "pool", f"waits for a place in pool '{hold.pool}'", "it goes when a place is free"
        case HoldReason.LOST:
            error = workflow.errors.get(node, "").removeprefix("its task is lost: ")
            if ENDED_SILENTLY in error:
                return (
                    "lost",
                    f"is held, since its task was lost: {error}",
                    "`skip NODE` goes on; another attempt, by `retry NODE`, would end in the same way",
                )
            steps = "`retry NODE` starts another attempt, `skip NODE` goes on"
            if EXPIRED in error:
                steps = "`skip NODE` goes on, if its work is done; `retry NODE` starts another attempt"
            return "lost", f"is held, since its task was lost: {error}", steps
        case HoldReason.CHILD:
            child = parent_of(workflow, node).child_id
            return "child", f"waits for its workflow {child}", f"dyrygentctl explain {child}"
        case HoldReason.RETRY:  # pragma: no cover - such a node is retrying, and not held
            return "retrying", f"is tried again in {left}", "`retry NODE` tries at once"


def _why_not_dispatched(engine: Engine, workflow: RunningWorkflow) -> tuple[str, str]:
    """Say in words what the engine goes by."""
    held = engine.held_back(workflow)
    if held is None:
        return "its turn comes within moments", ""
    match held.bar:
        case Bar.NOT_RUNNING:
            return f"the workflow is {workflow.state}", "`resume`" if workflow.state is WorkflowState.PAUSED else ""
        case Bar.DRAINING:
            return "the daemon is stopping and dispatches nothing more", "it goes on after the next start"
        case Bar.NOTHING_READY:  # pragma: no cover - between two steps a ready node may have gone
            return "its nodes have just gone", ""
        case Bar.WORKFLOW_LIMIT:
            return f"the workflow's own limit of {workflow.policy.in_flight_max} tasks in flight is reached", ""
        case Bar.IN_FLIGHT_MAX:
            reason = f"{engine.limits.in_flight_max:,} tasks are in flight, as many as `in_flight_max` allows"
            if not held.ahead:
                return reason, "add workers, or raise `in_flight_max`"
            step = "; `set-priority` lets it go before others" if held.priority > workflow.priority else ""
            return f"{reason}, and {_ahead(held)}", f"add workers, or raise `in_flight_max`{step}"
        case Bar.PRIORITY:
            return _ahead(held), "`set-priority` lets it go before others"
        case Bar.TURN:
            return _ahead(held), ""


def _ahead(held: HoldBack) -> str:
    """Say who goes before."""
    goes = "goes" if held.ahead == 1 else "go"
    if not held.nodes:
        return f"{counted(held.ahead, 'workflow')} of a higher priority ({held.priority}) {goes} first"
    return f"{counted(held.ahead, 'other workflow')} {goes} first, with {counted(held.nodes, 'node')} by weight"


# --- groups ---------------------------------------------------------------------------------------------------------


def _group_of(workflow: RunningWorkflow, node: int) -> tuple[int, str, str]:
    """Return ``(rank, state, what they have in common)`` of a node in one of the states that are looked at."""
    state = workflow.state_of(node)
    if state is NodeState.HELD:
        hold = workflow.holds[node]
        is_for_people = hold.reason in FOR_PEOPLE
        if hold.reason is HoldReason.LOST:
            return 1, hold.reason.value, fingerprint_of(workflow, node)
        return 1 if is_for_people else 5, hold.reason.value, hold.pool
    if state is NodeState.FAILED:
        return 0, state.word, workflow.fingerprints.get(node, "")
    if state in IN_FLIGHT:
        return 2, state.word, ""
    if state is NodeState.RETRYING:
        cause = workflow.attempts.tried_again.cause_of.get(node)
        return 1 if cause is not None and node in cause.often else _RANKS[state], state.word, workflow.fingerprints.get(node, "")
    return _RANKS[state], *group_of_cancelled(workflow, node)


#: States whose nodes differ in more than their names.
_LOOKED_AT: Final = frozenset({NodeState.HELD, NodeState.FAILED, NodeState.CANCELLED, NodeState.RETRYING, *IN_FLIGHT})
#: States that somebody may have to think about, and in what order.
_RANKS: Final = {
    NodeState.FAILED: 0,
    NodeState.HELD: 1,
    NodeState.DISPATCHING: 2,
    NodeState.DISPATCHED: 2,
    NodeState.READY: 3,
    NodeState.RETRYING: 4,
    NodeState.CANCELLED: 6,
    NodeState.BLOCKED: 7,
    NodeState.WAITING: 8,
}


def in_flight_of(workflow: RunningWorkflow, most: int) -> Iterator[int]:
    """Iterate over the nodes that have been in flight longest."""
    nodes = workflow.nodes.all_in(*IN_FLIGHT) if workflow.nodes.in_flight_count else []
    yield from sorted(nodes, key=lambda node: workflow.attempts.dispatched_at[node])[:most]
