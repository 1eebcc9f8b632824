"""What a key does to what is chosen: which verb, on how many, what that means; or why nothing. Nobody is asked here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from dyrygentd.cli import render
from dyrygentd.cli.tui import marks
from dyrygentd.cli.tui.outline import Branch

if TYPE_CHECKING:
    from dyrygentd import wire

_AGAIN: Final = ("failed", "cancelled")
_RETRY: Final = "A new attempt with a new task id for each; what was blocked by them waits for them again."
_SKIP: Final = "They count as succeeded. What waits for them runs without them, and gets null in place of their values."
#: Names that are shown of a command with many.
_SHOWN_MAX: Final = 3
#: Holds that `release` ends.
_RELEASED: Final = ("gate", "operator", "time", "poll")
_NONE_CHOSEN: Final = "choose a cause, a box or a node first"


@dataclass(frozen=True, slots=True)
class Deed:
    """A verb that is about to be carried out.

    Attributes:
        count: How many nodes it is for, as far as that is known before.
        about: What it is for, in words; it may hold names from outside.
        means: What follows from it.
        nodes: By name; none for the whole workflow, or all of a cause.
        inside, states: Nodes of this box in these states are meant, whose names have to be found out first (`by_name`).
    """

    verb: str
    count: int
    about: str
    means: str
    nodes: tuple[str, ...] = ()
    cause: str = ""
    inside: str = ""
    states: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """What is asked before."""
        return f"{self.verb} {self.about}?"

    def command(self, workflow_id: str, why: str = "") -> str:
        """Return the command that does the same."""
        flags = [*(["--cause", self.cause] if self.cause else []), *(["--why", why] if why else [])]
        shown = self.nodes[:_SHOWN_MAX]
        more = f" ... ({len(self.nodes) - len(shown):,} more)" if len(self.nodes) > len(shown) else ""
        return render.command(self.verb, workflow_id, shown, flags=flags) + more


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the cursor stands on: a cause, a node by its name, or a box."""

    branch: Branch | None = None
    cause: "wire.CauseView | None" = None
    node: "wire.NodeView | None" = None

    @property
    def name(self) -> str:
        """The node that is meant, empty if it is no single one."""
        if self.node is not None:
            return self.node.name
        return self.branch.title if self.branch is not None and self.branch.is_node else ""


def retry(chosen: Chosen, view: "wire.WorkflowView") -> Deed | str:
    """Return the retry of a cause, a node, the failures of a box, or all that failed; or why there is none."""
    if chosen.cause is not None:
        return Deed("retry", chosen.cause.count, _of_cause(chosen.cause), _RETRY, cause=chosen.cause.id)
    if chosen.name:
        return Deed("retry", 1, f"'{chosen.name}'", _RETRY, (chosen.name,))
    if chosen.branch is None:
        return _NONE_CHOSEN
    ended = _sum(chosen.branch.states, _AGAIN)
    if not chosen.branch.path:
        ended = _sum(view.counts, _AGAIN)
        blocked = view.counts.get("blocked", 0)
        if not ended:
            return "nothing has failed or was cancelled"
        about = f"all of the workflow that failed or was cancelled: {render.number(ended, 'node')}"
        return Deed("retry", ended, about, f"{_RETRY} Blocked are {blocked:,}.")
    return _of_box("retry", chosen.branch, _RETRY)


def skip(chosen: Chosen) -> Deed | str:
    """Return how to go on without a cause, a node, or the failures of a box; or why that is not done."""
    if chosen.cause is not None:
        return Deed("skip", chosen.cause.count, _of_cause(chosen.cause), _skipped(chosen.cause), cause=chosen.cause.id)
    if chosen.name:
        return Deed("skip", 1, f"'{chosen.name}'", _SKIP, (chosen.name,))
    if chosen.branch is None or not chosen.branch.path:
        return "choose a node or a cause: a whole workflow is not skipped"
    return _of_box("skip", chosen.branch, _SKIP)


def release(chosen: Chosen, view: "wire.WorkflowView") -> Deed | str:
    """Return how to open the gate, or let go the first node that is held here; or why there is none."""
    node, branch = chosen.node, chosen.branch
    name, hold, count = "", "", 0
    if node is not None:
        name, hold, count = (node.name if node.state == "held" else ""), str(node.hold or ""), 1
    elif branch is not None:
        name, hold, count = branch.held, branch.hold, branch.states.get("held", 0)
    else:
        return _NONE_CHOSEN
    if view.state == "scheduled" and (branch is None or not branch.path):
        return Deed("release", view.tasks, "the workflow, which waits for its start time", "It starts now.")
    if not name:
        return "nothing is held here"
    if branch is not None and count > 1 and hold not in _RELEASED:
        # What a person can open may stand behind others that wait for a pool.
        return Deed("release", 1, f"'{branch.title}'", "", inside=branch.path, states=("held",))
    if hold in ("pool", "retry"):
        return f"'{name}' waits for a place in its pool" if hold == "pool" else f"'{name}' waits for its next attempt"
    if hold == "lost":
        return f"the task of '{name}' was lost: r tries it again, s goes on without it"
    kind = "the gate" if hold == "gate" else "the held node"
    others = f", the first of {count:,} that are held here" if count > 1 else ""
    means = (
        "The gate opens, and what waits for it may go. The reason is its note."
        if hold == "gate"
        else "It may be dispatched as soon as it is its turn."
    )
    return Deed("release", 1, f"{kind} '{name}'{others}", means, (name,))


def pause_or_resume(view: "wire.WorkflowView") -> Deed | str:
    """Return the one of the two that changes something."""
    if view.is_finished:
        return f"the workflow has {view.state}: there is nothing to pause"
    flying = marks.in_flight(view.counts)
    ahead = _sum(view.counts, ("waiting", "ready", "held", "retrying"))
    if view.state == "paused":
        return Deed("resume", ahead, f"the workflow: {render.number(ahead, 'node')} ahead", "What is ready is dispatched again.")
    means = f"Nothing more is dispatched until it is resumed. {flying:,} in flight go on, and their results are taken in."
    return Deed("pause", ahead, f"the workflow: {render.number(ahead, 'node')} ahead", means)


def cancel(view: "wire.WorkflowView") -> Deed | str:
    """Return how to end the workflow."""
    if view.is_finished:
        return f"the workflow has {view.state} already"
    flying = marks.in_flight(view.counts)
    left = flying + _sum(view.counts, ("waiting", "ready", "held", "retrying"))
    means = (
        f"Nothing more is dispatched, and {flying:,} in flight are revoked: tasks that a worker has begun go on, "
        "and are shown as late. There is no way back but `retry`."
    )
    return Deed("cancel", left, f"the whole workflow: {render.number(left, 'node')} that have not finished", means)


def by_name(deed: Deed, nodes: "Sequence[wire.NodeView]", view: "wire.WorkflowView", *, most: int) -> Deed | str:
    """Return a deed on a box with the names that it is for; or why it is not done."""
    if deed.verb == "release":
        free = [node for node in nodes if node.hold in _RELEASED]
        return release(Chosen(node=free[0]), view) if free else "nothing that is held here waits for a person"
    if not nodes:
        return "nothing has failed here"
    if len(nodes) > most:
        return f"more than {most:,} nodes have failed here: choose a cause (Tab), or open the box and choose less"
    names = tuple(node.name for node in nodes)
    about = (
        f"'{names[0]}', the only failure in {deed.about}" if len(names) == 1 else f"the {len(names):,} failures in {deed.about}"
    )
    return replace(deed, count=len(names), about=about, nodes=names, inside="", states=())


def _of_box(verb: str, branch: Branch, means: str) -> Deed | str:
    count = branch.states.get("failed", 0)
    if count:
        return Deed(verb, count, f"'{branch.title}'", means, inside=branch.path, states=("failed",))
    return f"nothing has failed here; open it (Enter) and choose a node to {verb} it"


def _skipped(cause: "wire.CauseView") -> str:
    """Say what a skip of a cause means, with how many run without it; an older daemon does not tell."""
    words = render.behind(cause)
    return f"They count as succeeded: {words}." if words else _SKIP


def _of_cause(cause: "wire.CauseView") -> str:
    return f"all {cause.count:,} nodes of cause {cause.number}" if cause.count > 1 else f"the only node of cause {cause.number}"


def _sum(counts: Mapping[str, int], words: Sequence[str]) -> int:
    return sum(counts.get(word, 0) for word in words)
