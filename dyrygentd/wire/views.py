"""Views: what clients see of workflows and nodes, form by form; `dyrygentd.wire.showing` fills them in."""

import json
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from dyrygentd.errors import BadRequest
from dyrygentd.wire.encoding import decode
from dyrygentd.wire.parents import BelowView, ChildView, ParentTaskView, ParentView
from dyrygentd.wire.plain import View, plain
from dyrygentd.wire.values import decoded_value

if TYPE_CHECKING:
    from dyrygentd.wire.words import HoldWord, KindWord, NodeWord, WorkflowWord
else:
    # A newer daemon may have more words, and whoever reads it need not mind.
    WorkflowWord = NodeWord = KindWord = HoldWord = str


class WorkflowView(Struct, View, omit_defaults=True, rename={"stored_result": "result"}):
    """A workflow as clients see it.

    Times are Unix seconds; ``counts`` is ``{node state: number of tasks}``; ``owner`` is the number of the user who submitted it;
    where several hosts share a store ``owner_name``, such as `ann@app1`, is there instead: the number is anybody's elsewhere;
    ``may_run_on`` is how many tasks it has given up lately whose end has not been seen, if one workflow was asked for;
    ``waits_for_person`` is ``{"gate", "operator" or "lost": number of nodes}`` that go on only when somebody says so;
    ``keeps_failing`` is how many nodes have failed at least three times in a row and are tried again; both
    count those of unfinished children, too;
    ``problems`` is what keeps the daemon from its work, if one workflow was asked for that is under way.

    Attributes:
        error: What failed first, shortened and without secrets; empty if nothing did.
        parent_task: The Celery task in which it was submitted, if it was in one.
        parent: The node of another workflow whose work it is, if it is a child.
        below: What its unfinished children are at, if it has some.
        series, if_running: Of which runs it is one, and what it was to do if another one went on.
        queued_behind: The run of its series for whose end it waits.
        result: The value of its output, if that was asked for; in JSON as the worker stored it.
    """

    id: str
    name: str
    state: WorkflowWord
    created_at: float
    tasks: int
    counts: dict[str, int]
    finished_at: float | None = None
    key: str | None = None
    labels: dict[str, str] = {}
    error: str = ""
    priority: int = 0
    start_at: float | None = None
    deadline_at: float | None = None
    owner: int | None = None
    owner_name: str = ""
    may_run_on: int = 0
    waits_for_person: dict[str, int] = {}
    keeps_failing: int = 0
    problems: list[str] = []
    series: str = ""
    if_running: str = ""
    queued_behind: str = ""
    parent_task: ParentTaskView | None = None
    parent: ParentView | None = None
    below: BelowView | None = None
    #: The text of `result`, decoded by nobody who does not ask.
    # `Raw | None` would be the plain way, but msgspec decodes nothing than null into it.
    stored_result: Raw | UnsetType = UNSET

    @property
    def is_finished(self) -> bool:
        """Tell whether the workflow has come to its end."""
        return self.finished_at is not None

    @property
    def result_text(self) -> bytes | None:
        """Return the JSON text of the result, or None if there is none or it was not asked for."""
        return None if self.stored_result is UNSET else bytes(self.stored_result)

    @property
    def result(self) -> Any:
        """The value as Python has it, dates and decimals included; None if there is none, or it was not asked for.

        It is decoded each time that it is asked for. Raises `BadRequest` if it has a type that nobody here knows.
        """
        return None if self.result_text is None else decoded_value(self.result_text)

    def show_result(self, text: bytes | None) -> None:
        """Have it show this JSON text as its result, or none."""
        self.stored_result = UNSET if text is None else Raw(text)

    def to_dict(self) -> dict[str, Any]:
        found = View.to_dict(self)
        return found if self.result_text is None else found | {"result": plain(self.result)}


class AttemptView(Struct, View, omit_defaults=True):
    """An attempt of a node.

    Attributes:
        number: The how-manieth it was, from 1.
        state: How it ended: ``succeeded``, ``failed``, ``cancelled``, ``skipped``, ``lost``, ``given up`` by an operator,
            ``stale`` of a hook, ``not yet`` of a question of a poll; of the present or last one the state of its node.
        sent_at, started_at, ended_at: When it was sent, a worker began it as far as that was told, and it ended.
        backoff_s: How long it was from the end of the one before until this one was due.
        waited_s: How long from when it could have been sent until it was; None if that is not known.
        worker: Who had it, as far as that was told.
        logs: Where its log is, if one node was asked for and the configuration says where logs are.
    """

    number: int
    state: str
    sent_at: float
    task_id: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    backoff_s: float = 0.0
    waited_s: float | None = None
    worker: str = ""
    error: str = ""
    logs: str | None = None


class NodeView(Struct, View, omit_defaults=True):
    """A node as clients see it.

    Attributes:
        kind: ``task``, ``poll``, ``join``, ``gate``, ``sleep``, ``hook`` or ``workflow``.
        reported: The worker's last word about the present attempt.
        blocked_by: Name of the node to blame.
        hold: What holds it: ``time``, ``poll``, ``gate``, ``operator``, ``pool``, ``lost``, ``retry`` or ``child``: its workflow.
        held_until: When that ends by itself.
        is_on_hold: Whether an operator holds it, now or as soon as it is free.
        cause: What failures of one cause have in common.
        late: How its task ended after the node had gone on without it.
        may_run_on: Whether its task may still run although the node has gone on without it: it was revoked, and no end of it has
            been seen. To explain the node asks the workers.
        redelivered: How often the broker gave the message of the present attempt out once more, as far as it was seen.
        arguments: The arguments that were submitted, shortened and without secrets, if one node was asked for.
        payload: The free data that was submitted with it, shortened and without secrets, if one node was asked for.
        is_unneeded: Whether it was skipped by its rule or its task, and not by an operator.
        is_output: Whether its value is the workflow's result.
        section: The path of the section to which it belongs.
        section_end: What it does at the end of that: ``finally``, or as a hook of it ``success``, ``failure`` or ``always``.
        gate_since: Since when it is a gate that waits for its release.
        decided: If one node was asked for, or in a summary, who holds it, or has paused its workflow, since when and why; of a
            lost one when the daemon took its task for lost.
        dependents, takers: If one node was asked for, how many wait for it, joins looked through, and how many of these take its
            value: they run without it if it is skipped. Of very many only the first are counted.
        attempts: Oldest first, the present or last one included: the last ten before it are kept, of a poll three. Of a node that
            was tried once there are none, unless one node was asked for.
        attempts_left_out: How many were before these.
        when: The condition under which it runs, its section's included, in words.
        child: The workflow that is its work, of the first 40 of an answer that have one.
    """

    name: str
    state: NodeWord
    kind: KindWord = "task"
    task: str | None = None
    task_id: str | None = None
    attempt: int = 0
    rule: str = "all_succeeded"
    pool: str | None = None
    after: list[str] = []
    reported: str | None = None
    error: str | None = None
    blocked_by: str | None = None
    dispatched_at: float | None = None
    finished_at: float | None = None
    hold: HoldWord | None = None
    held_until: float | None = None
    is_on_hold: bool = False
    cause: str | None = None
    late: str | None = None
    may_run_on: bool = False
    redelivered: int = 0
    is_unneeded: bool = False
    when: str | None = None
    arguments: str | None = None
    payload: Any = None
    is_output: bool = False
    section: str | None = None
    section_end: str | None = None
    gate_since: float | None = None
    decided: "JournalView | None" = None
    dependents: int = 0
    takers: int = 0
    attempts: list[AttemptView] = []
    attempts_left_out: int = 0
    child: ChildView | None = None


class WorkflowPage(Struct, View):
    """A page of a listing; ``next`` is the cursor of the following page, or None."""

    workflows: list[WorkflowView]
    next: str | None = None


class NodePage(Struct, View):
    """A page of the nodes of a workflow; ``next`` is the cursor of the following page, or None."""

    nodes: list[NodeView]
    next: str | None = None


class Changed(Struct, View):
    """The answer to a verb; it is on disk.

    Attributes:
        is_changed: False if what was asked for was so already.
        nodes: Names of the nodes that it changed, at most 100.
        node_count: How many it changed in all; 0 from a daemon that does not say.
        dependents, takers: Of a skip, how many nodes wait for what was skipped and run without it, and how many of these take its
            value; of very many only the first are counted.
    """

    id: str
    verb: str
    is_changed: bool
    nodes: list[str]
    workflow: WorkflowView
    node_count: int = 0
    dependents: int = 0
    takers: int = 0

    @property
    def state(self) -> WorkflowWord:
        """The workflow's state now."""
        return self.workflow.state


class Refusal(Struct, View):
    """A workflow for which a verb was refused in bulk."""

    id: str
    detail: str
    code: str
    next_step: str = ""


class BulkChanged(Struct, View):
    """The answer to a verb for many workflows; ``is_complete`` is False if there are more that fit.

    Attributes:
        not_on_disk_yet: For these it will be done as soon as it can be written.
    """

    verb: str
    matched: int
    changed: list[str]
    unchanged: list[str]
    refused: list[Refusal]
    is_complete: bool = True
    not_on_disk_yet: list[str] = []


class StandingView(Struct, View, omit_defaults=True):
    """Why a node, or a group of nodes with the same answer, is not running.

    Attributes:
        code: A stable word for programs.
        next_step: What a person can do.
        count, examples: How many nodes it is about, and the names of the first few.
        cause: The id by which `retry` and `skip` mean all of a group that failed, was lost or cancelled.
        gate_since: Since when it is a gate that waits for its release; of several the first that is named.
        decided: Who held, cancelled or skipped it, when and why.
    """

    code: str
    text: str
    node: str
    next_step: str = ""
    count: int = 1
    examples: list[str] = []
    cause: str = ""
    gate_since: float | None = None
    decided: "JournalView | None" = None


class Explanation(Struct, View, omit_defaults=True):
    """Why something is not running, and what can be done.

    Attributes:
        node: The node that was asked about; None for the whole workflow.
        verdict: The answer in one sentence.
        code: A stable word for programs.
        standings: How the nodes stand that have not succeeded, those first for which somebody can do something.
        problems: What keeps the daemon from its work, or could not be found out.
        facts: What broker, workers and backend said of the tasks in flight, ``{node: facts}``.
        decided: Who paused or cancelled the workflow, when and why.
        blocked_by: The node to blame, if a node was asked about that is blocked.
        is_on_hold: Whether an operator holds the node that was asked about, now or as soon as it is free.
        attempts, attempts_left_out: Of the node that was asked about, if it was tried more than once; as in `NodeView`.
        logs: Where the log of its last attempt is, if the configuration says where logs are.
    """

    id: str
    state: WorkflowWord | NodeWord
    code: str
    verdict: str
    node: str | None = None
    next_step: str = ""
    standings: list[StandingView] = []
    problems: list[str] = []
    facts: dict[str, Any] = {}
    decided: "JournalView | None" = None
    blocked_by: str | None = None
    is_on_hold: bool = False
    attempts: list[AttemptView] = []
    attempts_left_out: int = 0
    logs: str | None = None


class JournalView(Struct, View, omit_defaults=True):
    """What somebody did to a workflow: who, when and why."""

    at: float
    verb: str
    by: str = ""
    why: str = ""
    nodes: list[str] = []
    count: int = 0
    detail: str = ""
    workflow: str = ""


class Journal(Struct, View, omit_defaults=True):
    """What was done to a workflow, or to all of them, oldest first; ``next`` is the cursor after the last entry."""

    entries: list[JournalView]
    next: str | None = None


class CauseView(Struct, View, omit_defaults=True):
    """Failures, or lost tasks, with one cause: the exception and where it came from.

    Attributes:
        number: From 1, in the order in which the causes first appear; ``retry --cause`` takes it, or the id.
        lost: How many of the nodes have not failed, but are held since their tasks were lost.
        dependents, takers: How many nodes wait for these, and how many take their values; they run without these if all of a
            cause is skipped. Told of the first 100 causes.
        example: The error of the first of them.
        nodes: Names, at most 20.
        logs: Where the log of the first of them is, if the configuration says where logs are.
    """

    number: int
    id: str
    cause: str
    count: int
    example: str = ""
    nodes: list[str] = []
    lost: int = 0
    logs: str | None = None
    dependents: int = 0
    takers: int = 0


class TriedView(Struct, View, omit_defaults=True):
    """Nodes that failed for one cause and are tried again.

    Attributes:
        cause: What their failures have in common.
        count: How many nodes there are.
        failures: How often they have failed, each counted since it was good last.
        error: The last of their errors.
        nodes: Names of the first few, those first that failed most often.
        most: How often the first of these has failed in a row.
        next_at: When the next attempt comes; None if all of them are in flight.
        since: Since when the first of these is tried in vain.
        text: All of it in words.
    """

    cause: str
    count: int
    failures: int
    nodes: list[str]
    most: int
    text: str
    error: str = ""
    next_at: float | None = None
    since: float = 0.0


class Causes(Struct, View, omit_defaults=True):
    """Failures and lost tasks of a workflow by cause; ``lost`` is how many nodes are held since their tasks were lost.

    Attributes:
        tried_again: What has failed and is tried again, by cause, at most 20; ``tried_again_count`` is how many nodes there are.
    """

    failures: int
    causes: list[CauseView]
    lost: int = 0
    tried_again: list[TriedView] = []
    tried_again_count: int = 0


class Submitted(Struct, View):
    """The answer to a submission: it is on disk. ``created`` is False if the key was known already, or it was skipped.

    Attributes:
        decided: Of one of a series ``began``, ``queued``, or ``skipped``: then ``id`` is that of the run which goes on. Empty
            if it is of none, the key was known, or whoever leads has not said yet.
        reason: What that means, for people; empty if it is what everybody expects.
        going: The run because of which it waits or was skipped.
        ended: The runs that were cancelled because of it.
    """

    id: str
    name: str
    tasks: int
    created: bool
    task_id: str | None = None
    decided: Literal["", "began", "queued", "skipped"] = ""
    reason: str = ""
    going: str = ""
    ended: list[str] = []


def decode_view(body: bytes) -> WorkflowView:
    """Read a workflow's view; raises as `decode` does.

    Its result is passed on as the worker stored it, and Python writes what no standard of JSON knows: ``NaN``, ``Infinity``
    and halves of surrogate pairs.
    """
    try:
        return decode(body, WorkflowView)
    except BadRequest as error:
        try:
            document = json.loads(body)
            result = json.dumps(document.pop("result")).encode()
            view = msgspec.convert(document, WorkflowView)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise error from None
        view.stored_result = Raw(result)
        return view
