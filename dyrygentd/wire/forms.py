"""The forms of what is submitted: what may be written in a definition, field by field."""

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from dyrygentd.core.bounds import (
    ATTEMPTS_MAX,
    ITEMS_MAX,
    ITEMS_MAX_DEFAULT,
    LABELS_MAX,
    NAME_LENGTH_MAX,
    POLICY_SECONDS_MAX,
    POLL_EVERY_MAX_S,
    POLL_EVERY_MIN_S,
    PRIORITY_MAX,
    REDELIVERIES_MAX,
    SECTION_LENGTH_MAX,
    WEIGHT_MAX,
)
from dyrygentd.core.policy import (
    HandsOn,
    Hook,
    OnClose,
    OnFailure,
    OnLost,
    Rule,
    SectionEnd,
)
from dyrygentd.core.series import IfRunning
from dyrygentd.wire.parents import ParentTaskDocument

DEFINITION_VERSION: Final = 1

Name = Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH_MAX)]
LabelValue = Annotated[str, Meta(max_length=NAME_LENGTH_MAX)]

_EMPTY_ARRAY, _EMPTY_OBJECT, _NULL = Raw(b"[]"), Raw(b"{}"), Raw(b"null")


Seconds = Annotated[float, Meta(ge=0, le=POLICY_SECONDS_MAX)]
Redeliveries = Annotated[int, Meta(ge=0, le=REDELIVERIES_MAX)]


#: Names of fields that are words of Python.
_WORDS: Final = {"is_": "is", "in_": "in", "not_": "not"}


class RetryDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A retry policy.

    Attributes:
        attempts: How often it is tried at most, the first time included.
        backoff_s: Pause before the second attempt; it doubles with each further one.
        backoff_max_s: Longest pause.
        jitter: Share of the pause that chance may take away, from 0 to 1.
        on: After which failures: ``any`` (the default), ``infrastructure``, ``revoked``, ``expired``, or names of exceptions.
    """

    attempts: Annotated[int, Meta(ge=1, le=ATTEMPTS_MAX)] = 3
    backoff_s: Seconds = 1.0
    backoff_max_s: Seconds = 600.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.5
    on: Annotated[list[Name], Meta(max_length=50)] = []


class PollDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """How a task is repeated until it returns something true.

    Attributes:
        every_s: Seconds from one answer to the next question.
        timeout_s: Longest time from the first question on, after which the node has failed; 0 for no bound.
    """

    every_s: Annotated[float, Meta(ge=POLL_EVERY_MIN_S, le=POLL_EVERY_MAX_S)]
    timeout_s: Seconds = 0.0


class ChildDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A workflow that does the work of a node.

    Attributes:
        definition: What is to run, as it would be submitted; without `key`, `task_id` and `adopted`. Its `${...}` are its own.
        values: ``{name: value}`` of its parameters.
        input: Name of the parameter that gets the value of what precedes the node, the list of the values of several.
        on_close: What becomes of it when its node no longer waits for it, since it was cancelled or skipped: ``cancel``, or
            ``abandon``, so that it goes on by itself.
    """

    definition: Raw
    values: dict[str, Any] | None = None
    input: Name | None = None
    on_close: OnClose = OnClose.CANCEL


class PolicyDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What a workflow asks for.

    Attributes:
        on_failure: ``continue``: what does not depend on a failed node goes on. ``stop``: what has not been sent is cancelled.
        retry: Retry policy of nodes that bring none.
        timeout_s: From dispatch to result, of nodes that bring none; 0 for no bound.
        deadline_s: From the start; then what has not finished is cancelled, and the workflow has failed. 0 for none.
        start_at: Nothing is sent before this time: ISO 8601 with a time zone, or Unix seconds.
        priority: Workflows with a higher one go first.
        weight: Nodes given in one turn of the round robin among workflows of one priority.
        in_flight_max: Most tasks in flight at once; 0 for no bound of its own.
        redeliveries_max: How often the broker may give one attempt out again, of nodes that say nothing; by default the daemon's.
    """

    on_failure: OnFailure = OnFailure.CONTINUE
    retry: RetryDocument | None = None
    timeout_s: Seconds = 0.0
    deadline_s: Seconds = 0.0
    start_at: float | str = 0.0
    priority: Annotated[int, Meta(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] = 0
    weight: Annotated[int, Meta(ge=1, le=WEIGHT_MAX)] = 1
    in_flight_max: Annotated[int, Meta(ge=0)] = 0
    redeliveries_max: Redeliveries | None = None


class MapDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is to be done with each item of a list that may be known only while the workflow runs.

    Attributes:
        do: A task, as a node is written without a name; or ``{"nodes": [...]}``, a small graph through which each item goes on
            its own. What waits for nothing in it gets the item in front of its arguments, unless it is immutable.
        over: Name of the node whose value is the list, the list itself, or ``{"json_lines": FILE}``; by default what precedes.
        key: Members are called by this field of their item, ``.`` for the item itself, and not by its number.
        batch: So many items are given to one member, as a list; 0 for one item each.
        spread: An item that is a list becomes positional arguments, one that is an object named ones.
        max_items: A longer list fails the node.
        in_flight_max: Most tasks of it in flight at once; 0 for no bound of its own.
        pool: Pool of those of its tasks that name none.
        on_failure: ``continue``: the other members go on. ``stop``: what has not been sent is cancelled.
        min_success: So many members have to succeed: a number, or a share from 0.0 to 1.0; by default all. What stands in the
            list for a member that failed is ``{"__failed__": name, "error": text}``.
        if_empty: What an empty list means: ``succeed`` with an empty list, ``skip`` or ``fail``.
    """

    do: Raw
    over: Raw = _NULL
    key: Name | None = None
    batch: Annotated[int, Meta(ge=0, le=ITEMS_MAX)] = 0
    spread: bool = False
    max_items: Annotated[int, Meta(ge=1, le=ITEMS_MAX)] = ITEMS_MAX_DEFAULT
    in_flight_max: Annotated[int, Meta(ge=0)] = 0
    pool: Annotated[str, Meta(max_length=NAME_LENGTH_MAX)] = ""
    on_failure: OnFailure = OnFailure.CONTINUE
    min_success: Annotated[int, Meta(ge=0, le=ITEMS_MAX)] | Annotated[float, Meta(ge=0, le=1)] | None = None
    if_empty: Literal["succeed", "skip", "fail"] = "succeed"


class ConditionDocument(Struct, forbid_unknown_fields=True, omit_defaults=True, rename=_WORDS.get):
    """A condition: one comparison of one value, or ``all``, ``any`` or ``not`` of such.

    Attributes:
        value: Name of the node whose value is asked for. It need not stand in ``after``.
        given: A value that is asked about instead of a node's, such as a parameter: ``${mode}``.
        path: What leads into the value: names and numbers with dots between them, or as a list.
        is: It is this; texts, numbers and so on are never equal to each other.
        is_not: It is not this.
        in: It is one of these.
        not_in: It is none of these.
        has: It is a list with this in it, or an object with this name.
        over: It is greater. Numbers are compared with numbers, texts with texts.
        under: It is less.
        at_least: It is equal or greater.
        at_most: It is equal or less.
        exists: There is something at the path: true or false.
        truthy: It is true for Python: neither null, false, 0, nor empty; or the opposite, with false.
        all: All of these conditions hold.
        any: One of these conditions holds.
        not: This condition does not hold.
    """

    value: Name | UnsetType = UNSET
    given: Any = UNSET
    path: str | list[str | int] | UnsetType = UNSET
    is_: Any = UNSET
    is_not: Any = UNSET
    in_: list[Any] | UnsetType = UNSET
    not_in: list[Any] | UnsetType = UNSET
    has: Any = UNSET
    over: int | float | str | UnsetType = UNSET
    under: int | float | str | UnsetType = UNSET
    at_least: int | float | str | UnsetType = UNSET
    at_most: int | float | str | UnsetType = UNSET
    exists: bool | UnsetType = UNSET
    truthy: bool | UnsetType = UNSET
    all: "list[ConditionDocument] | UnsetType" = UNSET
    any: "list[ConditionDocument] | UnsetType" = UNSET
    not_: "ConditionDocument | UnsetType" = UNSET


class SectionDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What holds for all nodes of a section, those of sections in it included.

    Attributes:
        when: A condition: if it does not hold, none of them runs.
    """

    when: ConditionDocument | None = None


class NodeDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One node of a definition: a task, a join, a gate, a sleep, a map or a workflow.

    Attributes:
        name: Unique in the workflow; made of the task's name and the position if there is none.
        task: Name of the Celery task.
        join: It is a point where others meet, without a task.
        args: Positional arguments; what precedes comes in front of them, unless the node is immutable.
        kwargs: Keyword arguments.
        options: Celery's publish options: ``queue``, ``priority``, ``countdown``, ``eta``, ``expires``, ``headers`` and so on.
        immutable: The task does not get the values of what precedes it.
        task_id: Celery's id of the first attempt, which no other task has had; made if there is none.
        after: Names of the nodes that it waits for.
        gate: It waits until an operator releases it.
        sleep_s: It takes so long, and holds no worker.
        poll: The task is repeated until it returns something true.
        hook: The task runs at the end: on ``success``, on ``failure`` or ``always``.
        section_end: The task runs when all else of its section has finished. ``finally``: to clean up, whatever came of the rest,
            if any of it ran. ``success``, ``failure`` or ``always``: as a hook of the section, after that.
        rule: When it runs, by how the nodes in ``after`` ended.
        pool: Name of a pool of the daemon's configuration, of which it takes a place while it is in flight.
        retry: Retry policy, instead of the workflow's.
        timeout_s: From dispatch to result, for each attempt, instead of the workflow's; 0 for none of its own.
        on_lost: What to do when the task has vanished; by default ``retry`` if the node is idempotent, else ``hold``.
        idempotent: Running the task twice does no harm.
        redeliveries_max: How often the broker may give one attempt out again before it has failed; 0 for as often as it likes. By
            default the workflow's.
        expands: The task returns a definition or a canvas, which is run as a workflow of its own; its result is the node's value.
        payload: Free data, shown with the node to its owner and admins.
        workflow: A workflow of its own does its work; its result is the node's value.
        map: One task, or a small graph, for each item of a list; the list of their values is the node's.
        adopted: It was done, or sent, before this workflow is submitted.
        section: What it belongs to, as a path: ``drain/osd-42``. It says how the workflow is shown folded.
        when: A condition over a value: if it does not hold, the node is skipped as not needed.
        hands_on: Of a join: ``all`` values as a list, null for what has none; those that ``succeeded``; or the value of ``one``.
    """

    name: Name | None = None
    task: Name | None = None
    join: bool = False
    args: Raw = _EMPTY_ARRAY
    kwargs: Raw = _EMPTY_OBJECT
    options: Raw = _EMPTY_OBJECT
    immutable: bool = False
    task_id: Name | None = None
    after: list[Name] = []
    gate: bool = False
    sleep_s: Seconds = 0.0
    poll: PollDocument | None = None
    hook: Hook | None = None
    section_end: SectionEnd | None = None
    rule: Rule = Rule.ALL_SUCCEEDED
    pool: Annotated[str, Meta(max_length=NAME_LENGTH_MAX)] = ""
    retry: RetryDocument | None = None
    timeout_s: Seconds = 0.0
    on_lost: OnLost | None = None
    idempotent: bool = False
    redeliveries_max: Redeliveries | None = None
    expands: bool = False
    payload: Raw = _NULL
    workflow: ChildDocument | None = None
    map: MapDocument | None = None
    adopted: Literal["succeeded", "failed", "dispatched"] | None = None
    section: Annotated[str, Meta(max_length=SECTION_LENGTH_MAX)] = ""
    when: ConditionDocument | None = None
    hands_on: HandsOn = HandsOn.ALL


class WorkflowDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A definition: what to run, and what it is called.

    Attributes:
        nodes: What to run.
        version: Of the form of this document.
        name: What the workflow is called; by default as its first task.
        key: The same definition submitted again with the same key, by the same user, is answered with the first one's workflow.
        labels: Texts to find it by.
        payload: Free data, kept with the workflow; the definition and an export have it.
        output: Name of the node whose value is the result; by default the only one that nothing waits for.
        policy: What holds for all of it.
        parameters: ``{name: default, or {"type", "default", "description", "choices"}}``; ``${name}`` in texts becomes the value.
        values: ``{name: value}`` of parameters.
        parent_task: The Celery task in which it is submitted; clients fill it in.
        series: A name of this user's under which runs follow each other, such as ``backup/gra1``.
        if_running: What to do while another run of the series has not finished: ``allow`` (the default), ``skip`` this one,
            ``queue_one`` (begin when that one has ended; of several that wait the newest), ``cancel_old``.
        sections: ``{path: what holds for all nodes of that section}``.
    """

    nodes: list[NodeDocument]
    version: int = DEFINITION_VERSION
    name: Name | None = None
    key: Name | None = None
    labels: Annotated[dict[Name, LabelValue], Meta(max_length=LABELS_MAX)] = {}
    payload: Raw = _NULL
    output: Name | None = None
    policy: PolicyDocument | None = None
    parameters: dict[str, Any] | None = None
    values: dict[str, Any] | None = None
    parent_task: ParentTaskDocument | None = None
    series: str | None = None
    if_running: IfRunning | None = None
    sections: dict[str, SectionDocument] | None = None
