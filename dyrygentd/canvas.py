"""Celery canvases and the public builder: both become a `Definition`, with task ids fixed here, at submission.

A canvas is read as what it says, never frozen or cloned: Celery's ``freeze`` changes the tree and copies chord bodies into
every member of a header. Signatures are dicts, so objects and their dict forms (``subtask_type``) take the same path and
Celery itself is not needed to read them. Celery 5.6 and 5.7 build different trees for one expression (``group | task`` is a
chord in one place and a chain in another); the rules below give both the same edges.

What a canvas is worth to whoever comes after it is one node (task, chain, chord), or a list of nodes (group, and a chain or chord
that ends in one). A list becomes a join when something depends on it, when it is a chord's header, when it is a member of another
list, or when it is the value of the whole. A group that stands directly in a group is spliced into it, in source order.

Where this differs from Celery on purpose is listed in `dyrygentd.differences`, and tested against Celery.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import uuid4

from kombu.utils import json

from dyrygentd.core.graph import (
    LABELS_MAX,
    NAME_LENGTH_MAX,
    RESERVED_OPTIONS,
    SERIALIZERS,
    Definition,
    Graph,
    NodeSpec,
    Signature,
)
from dyrygentd.core.options import SECONDS_MAX, flaw_of, is_number, shown
from dyrygentd.core.policy import (
    PLAIN,
    PLAIN_WORKFLOW,
    Hook,
    NodePolicy,
    OnLost,
    Retry,
    Rule,
    WorkflowPolicy,
)
from dyrygentd.core.policy_checks import checked_policy, checked_retry, checked_seconds, checked_word
from dyrygentd.errors import BadNode, BadRequest, DuplicateNode, EmptyWorkflow, NotACanvas

_CALLBACKS = frozenset({"link", "link_error"})
#: Some 300 million years; NaN and infinity are beyond it.
_SECONDS_MAX = 1e16
#: A chord's delay holds its header only, or the body would wait a second time (celery#7851).
_DELAYS = frozenset({"countdown", "eta"})

_NO_ASIDE = (0, 0)

#: These have no ``subtask_type``; the task's name tells.
_KIND_BY_TASK = {
    "celery.chain": "chain",
    "celery.group": "group",
    "celery.chord": "chord",
    "celery.chunks": "chunks",
}
_CONTAINERS = frozenset({"chain", "group", "chord", "chunks"})
_GROUPS = frozenset({"group", "chunks"})
#: One task each: ``celery.map`` and ``celery.starmap`` work through their list inside a worker.
_TASKS = frozenset({"", "xmap", "xstarmap"})

_Canvas = Mapping[str, Any]


def definition_of(
    what: object,
    *,
    name: str | None = None,
    key: str | None = None,
    labels: Mapping[str, str] | None = None,
    has_good_options: bool = True,
) -> Definition:
    """Turn a canvas, a `Workflow` or a `Definition` into what is submitted.

    Name, key and labels given here go before those that ``what`` has.

    Args:
        has_good_options: Whether publish options with which nothing could be published are refused. A linter reads on.

    Raises:
        NotACanvas: Something in it is no signature; the message tells its type and where it was found.
        DefinitionError: It is a canvas, but cannot be run.
    """
    match what:
        case Definition():
            return replace(
                what,
                name=what.name if name is None else _checked_name(name),
                key=what.key if key is None else key,
                labels={**what.labels, **_checked_labels(labels)},
            )
        case Workflow():
            return definition_of(what.definition(key=key), name=name, labels=labels)
    workflow = Workflow(name, labels=labels)
    workflow._has_good_options = has_good_options
    value = _Importer(workflow).read(what, ())
    if value is None:
        raise EmptyWorkflow
    is_group = isinstance(what, Mapping) and _kind_of(what) in _GROUPS
    if is_group and isinstance(value, list) and len(value) == 1 and workflow._signatures[value[0]] is None:
        # The only member is itself worth a list, and that is what `group.apply_async` answers with.
        value = value[0]
    return workflow._definition(key=key, output=workflow._one_node(value))


def encode_value(value: object) -> bytes:
    """Write a value as JSON text in kombu's dialect. Raises `BadRequest` if JSON cannot carry it."""
    try:
        return _json_text(value)
    # Kombu asks the value itself (``__json__``), which may raise anything.
    except Exception as error:
        raise BadRequest(f"JSON cannot carry the {_type_name(value)}: {error}", next_step=_PASS_PLAIN_DATA) from error


def decode_value(json_text: bytes) -> object:
    """Read JSON text in kombu's dialect. Raises `BadRequest` if it is malformed or has an unknown type in it."""
    try:
        return json.loads(json_text)
    # A decoder is called with whatever the text holds, and users register decoders of their own.
    except Exception as error:
        raise BadRequest(f"the value is not valid JSON: {error}") from error


# --- the builder ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class NodeRef:
    """A node of a workflow under construction."""

    workflow: "Workflow"
    number: int

    def __repr__(self) -> str:
        return f"<NodeRef '{self.name}'>"

    @property
    def name(self) -> str:
        """The node's name. One that was made up changes if another node is given the same."""
        return self.workflow._name_of(self.number)


class Workflow:
    """Build a workflow node by node, or from canvases.

    Guards: nodes refer to nodes of this workflow that exist already, so there is no cycle; a call that raises adds nothing.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        payload: object = None,
        policy: WorkflowPolicy = PLAIN_WORKFLOW,
    ) -> None:
        self.name = None if name is None else _checked_name(name)
        self.labels = _checked_labels(labels)
        self.payload = payload
        self.policy = checked_policy(policy)
        self._has_good_options = True
        self._policies: dict[int, NodePolicy] = {}
        self._signatures: list[Signature | None] = []
        self._after: list[Sequence[int]] = []
        self._given_names: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._interned: dict[Signature, Signature] = {}
        #: ``{node: node whose task id is its first argument}``, of error callbacks of chords' bodies.
        self._told_of: dict[int, int] = {}
        #: ``{node: (body, number)}`` of what is there for the error callbacks of a chord's body only; 0 if it is no task.
        self._asides: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._signatures)

    def __repr__(self) -> str:
        return f"<Workflow {self.name!r} nodes={len(self)}>"

    def add(
        self,
        signature: object,
        *,
        after: NodeRef | Iterable[NodeRef] = (),
        rule: Rule | str = Rule.ALL_SUCCEEDED,
        name: str | None = None,
        pool: str = "",
        retry: Retry | int | None = None,
        timeout_s: float = 0.0,
        on_lost: OnLost | str | None = None,
        idempotent: bool = False,
        payload: object = None,
    ) -> NodeRef:
        """Add one task.

        A mutable signature gets the value of its dependency as first argument, or the list of their values if there are several.

        Args:
            rule: When it runs, by how its dependencies ended: ``all_succeeded``, ``all_finished``, ``any_failed``,
                ``any_succeeded`` or ``none_failed``. What has no value is passed as None.
            pool: Name of a pool of the daemon's configuration, of which it takes a place while it is in flight.
            retry: A policy, or the number of attempts.
            timeout_s: From dispatch to result, for each attempt; then the task is terminated and the attempt has failed.
            on_lost: What to do if the task vanishes: ``retry``, ``fail`` or ``hold``; by default ``hold`` unless ``idempotent``.
            payload: Free data of yours, shown with the node.

        Raises:
            NotACanvas, BadNode, DuplicateNode
        """
        policy = _node_policy(
            name,
            rule=rule,
            pool=pool,
            retry=retry,
            timeout_s=timeout_s,
            on_lost=on_lost,
            idempotent=idempotent,
            payload=payload,
        )
        return self._add_one(signature, after, name, policy)

    def poll(
        self,
        signature: object,
        *,
        every_s: float,
        timeout_s: float = 0.0,
        after: NodeRef | Iterable[NodeRef] = (),
        rule: Rule | str = Rule.ALL_SUCCEEDED,
        name: str | None = None,
        pool: str = "",
        retry: Retry | int | None = None,
        payload: object = None,
    ) -> NodeRef:
        """Add a task that is repeated until it returns something true; between two times it holds no worker.

        Args:
            every_s: Seconds from one answer to the next question, 0.1 or more.
            timeout_s: Longest time from the first question on, 0 for no bound. Then the node has failed.
            retry: How often a question that raises is repeated before the node has failed.

        Raises:
            NotACanvas, BadNode, DuplicateNode
        """
        if checked_seconds(name or "poll", "every_s", every_s) < 0.1:
            raise BadNode(name or "poll", f"`every_s` is {every_s:g}", next_step="use 0.1 seconds or more")
        policy = _node_policy(
            name, rule=rule, pool=pool, retry=retry, payload=payload, poll_every_s=every_s, poll_timeout_s=timeout_s
        )
        return self._add_one(signature, after, name, policy)

    def gate(
        self, name: str, *, after: NodeRef | Iterable[NodeRef] = (), rule: Rule | str = Rule.ALL_SUCCEEDED, payload: object = None
    ) -> NodeRef:
        """Add a point that is passed when an operator releases it; it hands on the value of what precedes it."""
        return self._add_taskless(name, after, _node_policy(name, rule=rule, payload=payload, is_gate=True))

    def sleep(
        self,
        seconds: float,
        *,
        after: NodeRef | Iterable[NodeRef] = (),
        rule: Rule | str = Rule.ALL_SUCCEEDED,
        name: str | None = None,
    ) -> NodeRef:
        """Add a pause that holds no worker; it hands on the value of what precedes it."""
        if checked_seconds(name or "sleep", "seconds", seconds) == 0:
            raise BadNode(name or "sleep", "a pause must be longer than 0 seconds", next_step="leave it out, or give its length")
        return self._add_taskless(name, after, _node_policy(name, rule=rule, sleep_s=seconds))

    def hook(self, when: Hook | str, signature: object, *, name: str | None = None, retry: Retry | int | None = None) -> NodeRef:
        """Add a task that runs when everything else has finished.

        A mutable signature gets a summary as first argument: ``{"workflow_id", "name", "labels", "state", "error",
        "failures": number, "failed": [{"node", "error"}]}``, with at most 20 failures named.

        Args:
            when: On ``success``, on ``failure``, or ``always``; not after a cancel.
        """
        return self._add_one(signature, (), name, _node_policy(name, hook=when, retry=retry))

    def _add_taskless(self, name: str | None, after: NodeRef | Iterable[NodeRef], policy: NodePolicy) -> NodeRef:
        self._check_new_name(name)
        numbers = self._numbers_of(after, name)
        _check_rule(name, policy, numbers)
        reference = self._named(self._add(None, numbers), name)
        self._set_policy(reference, policy)
        return reference

    def _add_one(self, signature: object, after: NodeRef | Iterable[NodeRef], name: str | None, policy: NodePolicy) -> NodeRef:
        reference = self._add_task(signature, after, name, policy)
        self._set_policy(reference, policy)
        return reference

    def _set_policy(self, reference: NodeRef, policy: NodePolicy) -> None:
        if policy != PLAIN:
            self._policies[reference.number] = policy

    def _add_task(self, signature: object, after: NodeRef | Iterable[NodeRef], name: str | None, policy: NodePolicy) -> NodeRef:
        self._check_new_name(name)
        numbers = self._numbers_of(after, name)
        _check_rule(name, policy, numbers)
        visit = _Visit(signature, numbers, _NOTHING, "what was added")
        if _kind(visit) in _CONTAINERS:
            raise _not_a_canvas(f"add() takes one task, and this is a {_kind(visit)}", "use add_canvas() for it")
        return self._named(_Importer(self).add_task(visit, name=name), name)

    def join(
        self, after: NodeRef | Iterable[NodeRef], *, rule: Rule | str = Rule.ALL_SUCCEEDED, name: str | None = None
    ) -> NodeRef:
        """Add a point where others meet; it is no task, and its value is the list of theirs."""
        return self._add_taskless(name, after, _node_policy(name, rule=rule))

    def add_canvas(self, canvas: object, *, after: NodeRef | Iterable[NodeRef] = (), name: str | None = None) -> NodeRef:
        """Add a canvas; ``name`` names the node that has its value, which is returned.

        Raises:
            NotACanvas, BadNode, DuplicateNode
        """
        self._check_new_name(name)
        numbers = self._numbers_of(after, name)
        mark = len(self)
        try:
            if len(numbers) > 1 and _kind(_Visit(canvas, (), _NOTHING, "the canvas")) in _CONTAINERS:
                # Else each member of a group would depend on each of them. The value is the same list.
                numbers = (self._add(None, numbers),)
            value = _Importer(self).read(canvas, numbers)
            if value is None:
                raise _not_a_canvas("the canvas has no tasks", "leave it out, or put at least one task into it")
        except BaseException:
            self._cut(mark)
            raise
        return self._named(self._one_node(value), name)

    def definition(self, *, key: str | None = None) -> Definition:
        """Return what is submitted. Each call makes new task ids, so that two submissions never share one.

        Raises:
            EmptyWorkflow, BadRequest
        """
        return self._definition(key=key, output=None)

    def _definition(self, *, key: str | None, output: int | None) -> Definition:
        names = [self._name_of(number) for number in range(len(self))]
        task_ids = ["" if signature is None else str(uuid4()) for signature in self._signatures]
        if output is None and self._asides:
            output = self._only_end()
        graph = Graph.build(
            (
                NodeSpec(
                    names[number],
                    signature if number not in self._told_of else _told(signature, task_ids[self._told_of[number]]),
                    task_ids[number],
                    [names[dependency] for dependency in after],
                    self._policies.get(number, PLAIN),
                )
                for number, (signature, after) in enumerate(zip(self._signatures, self._after, strict=True))
            ),
            output=None if output is None else names[output],
        )
        first_task = next((signature.task for signature in self._signatures if signature is not None), "workflow")
        return Definition(
            graph=graph,
            name=self.name or first_task,
            key=key,
            labels=dict(self.labels),
            payload=b"null" if self.payload is None else encode_value(self.payload),
            policy=self.policy,
        )

    def _add(self, signature: Signature | None, after: Sequence[int]) -> int:
        # Large workflows repeat few shapes, so equal signatures share one object.
        self._signatures.append(None if signature is None else self._interned.setdefault(signature, signature))
        self._after.append(after)
        return len(self) - 1

    def _cut(self, mark: int) -> None:
        """Forget the nodes from number ``mark`` on."""
        del self._signatures[mark:], self._after[mark:]
        for known in (self._policies, self._told_of, self._asides):
            for number in [number for number in known if number >= mark]:
                del known[number]

    def _only_end(self) -> int | None:
        """Return the only node without dependents, if there is but one besides hooks and what is there for error callbacks."""
        has_dependents = {number for node, after in enumerate(self._after) if node not in self._asides for number in after}
        ends = [
            number
            for number in range(len(self))
            if number not in has_dependents and number not in self._asides and self._policies.get(number, PLAIN).hook is None
        ]
        return ends[0] if len(ends) == 1 else None

    def _one_node(self, value: "_Value") -> int:
        """Return the node that has this value; a list needs a join."""
        return value if isinstance(value, int) else self._add(None, tuple(value))

    def _named(self, number: int, name: str | None) -> NodeRef:
        if name is not None:
            self._given_names[number] = name
            self._numbers[name] = number
        return NodeRef(self, number)

    def _check_new_name(self, name: str | None) -> None:
        if name is not None and _checked_name(name) in self._numbers:
            raise DuplicateNode(name)

    def _name_of(self, number: int) -> str:
        if self._asides.get(number, _NO_ASIDE)[1]:
            return self._errback_name(*self._asides[number])
        signature = self._signatures[number]
        taskless = "sleep" if self._policies.get(number, PLAIN).sleep_s else "join"
        return self._given_names.get(number) or self._made_name(taskless if signature is None else signature.task, number)

    def _made_name(self, task: str, number: int) -> str:
        """Make a name of the task's last word and the node's position; names that were given win."""
        name = made = f"{task.rpartition('.')[2][: NAME_LENGTH_MAX // 2]}-{number + 1}"
        suffix = 1
        while name in self._numbers:
            suffix += 1
            # No other made name has a dot, so this one is still the only one of its kind.
            name = f"{made}.{suffix}"
        return name

    def _errback_name(self, body: int, number: int) -> str:
        # No other made name has a word behind a dot. Only a body whose name had to be cut may share its beginning with another.
        name = self._name_of(body)
        cut = name[: NAME_LENGTH_MAX // 2]
        made = f"{cut}.errback" if cut == name else f"{cut}-{body + 1}.errback"
        name = made if number == 1 else f"{made}-{number}"
        while name in self._numbers:
            name += "+"
        return name

    def _numbers_of(self, after: Any, name: str | None) -> Sequence[int]:
        numbers: dict[int, None] = {}
        if not isinstance(after, Iterable) and not isinstance(after, NodeRef):
            raise BadNode(name or f"number {len(self) + 1}", f"`after` is {shown(after)}", next_step=_NAME_BY_REFERENCE)
        for reference in (after,) if isinstance(after, NodeRef) else after:
            node = name or f"number {len(self) + 1}"
            if not isinstance(reference, NodeRef):
                raise BadNode(
                    node,
                    f"`after` has a '{_type_name(reference)}' in it",
                    next_step=_NAME_BY_REFERENCE,
                )
            if reference.workflow is not self:
                raise BadNode(
                    node,
                    f"`after` names '{reference.name}', a node of another workflow ({reference.workflow!r})",
                    next_step="add both nodes to one workflow",
                )
            numbers[reference.number] = None
        return tuple(numbers)


_NAME_BY_REFERENCE = "name nodes by what add(), join() and add_canvas() return"


def _node_policy(
    name: str | None,
    *,
    rule: Rule | str = Rule.ALL_SUCCEEDED,
    on_lost: OnLost | str | None = None,
    retry: Retry | int | None = None,
    hook: Hook | str | None = None,
    timeout_s: float = 0.0,
    pool: Any = "",
    payload: object = None,
    **fields: Any,
) -> NodePolicy:
    """Make a policy of what `Workflow` was given. Raises `BadNode` with what is allowed."""
    node = name or "without a name"
    for seconds in (timeout_s, fields.get("poll_timeout_s", 0.0)):
        checked_seconds(node, "timeout_s", seconds)
    if not isinstance(pool, str) or len(pool) > NAME_LENGTH_MAX:
        raise BadNode(node, f"`pool` is {shown(pool)}", next_step="give the name of a pool of the daemon's configuration")
    return NodePolicy(
        rule=checked_word(Rule, node, "rule", rule),
        on_lost=None if on_lost is None else checked_word(OnLost, node, "on_lost", on_lost),
        retry=checked_retry(node, retry),
        pool=pool,
        hook=None if hook is None else checked_word(Hook, node, "hook", hook),
        timeout_s=timeout_s,
        payload=b"null" if payload is None else encode_value(payload),
        **fields,
    )


def _check_rule(name: str | None, policy: NodePolicy, after: Sequence[int]) -> None:
    if policy.rule in (Rule.ANY_FAILED, Rule.ANY_SUCCEEDED) and not after:
        raise BadNode(
            name or "without a name", f"rule '{policy.rule}' needs something to wait for", next_step="name it in `after`"
        )


# --- the importer ---------------------------------------------------------------------------------------------------

#: What a canvas is worth: a node, or a list of nodes. None stands for a canvas without tasks, which added no nodes.
_Value = int | list[int]


class _Passed(NamedTuple):
    """What containers hand down to the tasks in them.

    Attributes:
        options: Go before the options of whatever starts first in here.
        link: For whatever ends last in here; each member of a group.
        link_first: For the first member of the group that this is handed to, without its value.
        link_error: For all in here.
        args: Come before the arguments of whatever starts first in here.
        kwargs: Go before the keyword arguments of whatever starts first in here.
        is_sealed: Whatever starts first in here does not get the value that precedes it.
    """

    options: Mapping[str, Any] = {}
    link: tuple[Any, ...] = ()
    link_first: tuple[Any, ...] = ()
    link_error: tuple[Any, ...] = ()
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    is_sealed: bool = False


_NOTHING = _Passed()


class _Header(NamedTuple):
    """The header of a chord: the join of its values, and what it depends on itself."""

    join: int
    after: Sequence[int]


class _Visit(NamedTuple):
    """A part of a canvas that is to be read.

    Attributes:
        after: The nodes on which the tasks depend that start first in here; one at most, but for a single task.
        place: Where it was found, in words.
        unrolls: A group of one counts as its member (Celery's ``maybe_unroll_group``).
        header: The header of the chord whose body this is, or is a member of.
    """

    what: Any
    after: Sequence[int]
    passed: _Passed
    place: str
    unrolls: bool = False
    header: _Header | None = None


class _Errbacks(NamedTuple):
    """Error callbacks that are called if the header of a chord fails, and the node of the body that they are called for."""

    callbacks: Sequence[Any]
    header: _Header
    body: int


class _TaskIdOf(NamedTuple):
    """Stands for the task id of a node among arguments, until there is one."""

    node: int


_Walk = Generator[_Visit, _Value | None, _Value | None]


class _Importer:
    """Adds a canvas to a workflow.

    A walk reads one container: it yields the parts to be read and is sent what they are worth. The walks under way are a list,
    so depth costs no recursion.

    If the header of a chord fails, Celery's workers call the error callbacks of its body, which never runs. Nobody sees a body
    that is not sent, so these callbacks become nodes here, which are skipped if all goes well.
    """

    def __init__(self, workflow: Workflow) -> None:
        self._workflow = workflow
        self._errbacks: list[_Errbacks] = []
        self._walks = {
            "chain": self._walk_chain,
            "group": self._walk_group,
            "chord": self._walk_chord,
            "chunks": self._walk_chunks,
        }

    def read(self, canvas: object, after: Sequence[int]) -> _Value | None:
        """Add all nodes of a canvas and return what it is worth."""
        value = self._read(_Visit(canvas, after, _NOTHING, "the canvas"))
        self._add_errbacks()
        return value

    def _read(self, start: _Visit) -> _Value | None:
        under_way: list[_Walk] = []
        visit: _Visit | None = start
        value: _Value | None = None
        while True:
            if visit is not None:
                kind = _kind(visit)
                if kind in _CONTAINERS:
                    under_way.append(self._walks[kind](visit))
                    value = None
                else:
                    value = self.add_task(visit)
            if not under_way:
                return value
            try:
                visit = under_way[-1].send(value)
            except StopIteration as stop:
                under_way.pop()
                visit, value = None, stop.value

    def add_task(self, visit: _Visit, *, name: str | None = None) -> int:
        """Add a single task."""
        name = name or self._workflow._made_name(visit.what["task"], len(self._workflow))
        passed, told_of = visit.passed, None
        if passed.args and isinstance(passed.args[0], _TaskIdOf):
            told_of, passed = passed.args[0].node, passed._replace(args=passed.args[1:])
        signature = _signature(name, visit.what, passed, has_good_options=self._workflow._has_good_options)
        number = self._workflow._add(signature, visit.after)
        if told_of is not None and not visit.what.get("immutable"):
            self._workflow._told_of[number] = told_of
        self._note_errbacks(visit, number, number)
        return number

    def _note_errbacks(self, visit: _Visit, value: _Value | None, mark: int) -> None:
        """Remember the error callbacks of a chord's body; its nodes are those from number ``mark`` on."""
        if visit.header is None or value is None:
            return
        callbacks = _with(_errbacks_of(visit.what), visit.passed.link_error)
        if not callbacks:
            return
        tasks = (number for number in range(mark, len(self._workflow)) if self._workflow._signatures[number] is not None)
        is_task = isinstance(value, int) and self._workflow._signatures[value] is not None
        body = value if isinstance(value, int) and is_task else next(tasks)
        self._errbacks.append(_Errbacks(callbacks, visit.header, body))

    def _add_errbacks(self) -> None:
        """Add what was remembered, behind everything else, so that positions and names are what they are without."""
        workflow = self._workflow
        starts: dict[_Header, Sequence[int]] = {}
        counts: dict[int, int] = {}
        while self._errbacks:
            callbacks, header, body = self._errbacks.pop(0)
            mark = len(workflow)
            if header not in starts:
                starts[header] = self._start_of_errbacks(header)
            for callback in callbacks:
                passed = _Passed(args=(_TaskIdOf(body),), is_sealed=True)
                self._read(_Visit(callback, starts[header], passed, f"an error callback of '{workflow._name_of(body)}'"))
            for number in range(mark, len(workflow)):
                is_task = workflow._signatures[number] is not None
                counts[body] = counts.get(body, 0) + is_task
                workflow._asides[number] = (body, counts[body] if is_task else 0)

    def _start_of_errbacks(self, header: _Header) -> Sequence[int]:
        """Add what the error callbacks wait for: the header has begun, one of its tasks has failed, and all have finished."""
        workflow = self._workflow
        failed = workflow._add(None, (header.join,))
        workflow._policies[failed] = NodePolicy(rule=Rule.ANY_FAILED)
        finished = workflow._add(None, workflow._after[header.join])
        workflow._policies[finished] = NodePolicy(rule=Rule.ALL_FINISHED)
        return (*header.after, failed, finished)

    def _walk_chain(self, visit: _Visit) -> _Walk:
        """Each step depends on the one before. The chain's options go to its first step, its link to the last."""
        steps = _members(visit, "tasks")
        inner = _passed_on(visit)
        start = len(self._workflow)
        last = max((number for number, step in enumerate(steps) if not _is_empty(step)), default=-1)
        passed = inner._replace(link=())
        value: _Value | None = None
        after = before = visit.after
        for number, step in enumerate(steps):
            if number == last:
                passed = _with_link(passed, inner.link, step, is_body=isinstance(value, list))
            mark = len(self._workflow)
            header: _Header | None = None
            if value is not None:
                after = (self._workflow._one_node(value),)
                header = _Header(after[0], before) if isinstance(value, list) else None
            if number < last and _is_fan(step):
                # What follows makes it a chord's header, and error callbacks of a chord are for its body.
                passed = passed._replace(link_error=())
            found = yield _Visit(step, after, passed, f"step {number + 1} of the chain", unrolls=True, header=header)
            if found is None:
                # The step is empty; the join that was made for it is not needed.
                self._workflow._cut(mark)
                continue
            before = after
            if isinstance(found, list) and len(found) == 1 and number < last and _ends_in_body(step):
                # What follows such a chord takes each of the values of its body, and here there is one.
                found = found[0]
            # Celery makes a chord of a group and what follows it, and a chord's options are for its body too.
            is_header = isinstance(found, list) and _kind_of(step) in _GROUPS
            passed = _Passed(_without_delays(passed.options) if is_header else {}, link_error=inner.link_error)
            value = found
        self._note_errbacks(visit, value, start)
        return value

    def _walk_group(self, visit: _Visit) -> _Walk:
        """All members depend on what precedes; their values are a list."""
        members = _members(visit, "tasks")
        is_unrolled = visit.unrolls and len(members) == 1
        passed = _passed_on(visit)
        if is_unrolled:
            passed = passed._replace(link=passed.link + passed.link_first, link_first=())
        values = yield from self._walk_members(members, visit, passed, "member {} of the group", is_unrolled, visit.header)
        return values[0] if values and is_unrolled else values or None

    def _walk_chord(self, visit: _Visit) -> _Walk:
        """The body depends on a join of the header, whose options it shares, and has the callbacks."""
        header, body = visit.what["kwargs"].get("header"), visit.what["kwargs"].get("body")
        inner = _passed_on(visit)
        above = inner if body is None else inner._replace(link=(), link_error=())
        if isinstance(header, Mapping) and _kind_of(header) == "group":
            found = yield _Visit(header, visit.after, above, "the header of the chord")
            values = found if isinstance(found, list) else []
        else:
            members = _members(visit, "header")
            values = yield from self._walk_members(members, visit, above, "member {} of the chord's header", False)
        if body is None:
            return values or None
        below = _Passed(_without_delays(inner.options), link_error=inner.link_error)
        below = _with_link(below, inner.link, body, is_body=True)
        mark = len(self._workflow)
        after: Sequence[int]
        its_header: _Header | None = None
        if values:
            after = (self._workflow._one_node(values),)
            its_header = _Header(after[0], visit.after)
        else:
            # The body is called with []. Writing that into its arguments keeps it behind what precedes the chord.
            after, below = visit.after, below._replace(args=([],), is_sealed=True)
        found = yield _Visit(body, after, below, "the body of the chord", header=its_header)
        if found is None:
            self._workflow._cut(mark)
            return values or None
        self._note_errbacks(visit, found, mark)
        return found

    def _walk_members(
        self,
        members: Sequence[Any],
        visit: _Visit,
        passed: _Passed,
        place: str,
        is_unrolled: bool,
        header: _Header | None = None,
    ) -> Generator[_Visit, _Value | None, list[int]]:
        values: list[int] = []
        for number, member in enumerate(members):
            handed = passed
            if passed.link_first:
                handed = _with_link_first(passed, member) if number == 0 else passed._replace(link_first=())
            found = yield _Visit(member, visit.after, handed, place.format(number + 1), unrolls=is_unrolled, header=header)
            if isinstance(found, list) and _kind_of(member) in _GROUPS:
                values.extend(found)
            elif found is not None:
                values.append(self._workflow._one_node(found))
        return values

    def _walk_chunks(self, visit: _Visit) -> _Walk:
        """Read it as the group of ``celery.starmap`` that Celery makes of it when it runs."""
        given = visit.what["kwargs"]
        task, size = given.get("task"), given.get("n")
        if not isinstance(size, int) or size < 1:
            raise _not_a_canvas(f"{visit.place} is chunks of {size!r} items", "give a chunk size of 1 or more")
        if not isinstance(given.get("it"), Iterable | None):
            raise _not_a_canvas(f"{visit.place} is chunks of a '{_type_name(given['it'])}'", "give a list of arguments as `it`")
        items = list(given.get("it") or ())
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        starmaps = [{"task": "celery.starmap", "kwargs": {"task": task, "it": part}, "immutable": True} for part in parts]
        group = {**visit.what, "task": "celery.group", "subtask_type": "group", "kwargs": {"tasks": starmaps}}
        return (yield visit._replace(what=group, unrolls=False))


def _kind(visit: _Visit) -> str:
    """Return the kind of a signature, empty for a plain task. Raises `NotACanvas`."""
    what = visit.what
    if not isinstance(what, Mapping):
        raise _not_a_canvas(f"{visit.place} is a '{_type_name(what)}', which is no signature", _what_to_write_for(what))
    task = what.get("task")
    if not isinstance(task, str) or not task:
        raise _not_a_canvas(f"{visit.place} is a '{_type_name(what)}' that names no task", "")
    if not isinstance(what.get("subtask_type"), str | None):
        raise _not_a_canvas(
            f"{visit.place} has a '{_type_name(what['subtask_type'])}' as its `subtask_type`",
            f"leave it out for a task, or use one of {', '.join(sorted((_CONTAINERS | _TASKS) - {''}))}",
        )
    kind = _kind_of(what)
    if kind not in _CONTAINERS and kind not in _TASKS:
        raise _not_a_canvas(f"{visit.place} is a '{kind}', a kind of signature that is not known here", "")
    if kind in _CONTAINERS and not isinstance(what.get("kwargs"), Mapping):
        raise _not_a_canvas(f"{visit.place} is a {kind} without contents", "")
    if not isinstance(what.get("options") or {}, Mapping) or not isinstance(what.get("args") or (), list | tuple):
        raise _not_a_canvas(f"{visit.place} has `options` that are no mapping, or `args` that are no list", "")
    if kind in _CONTAINERS and not isinstance(what["kwargs"].get("kwargs") or {}, Mapping):
        raise _not_a_canvas(f"{visit.place} has `kwargs` in its `kwargs` that are no mapping", "")
    stamps = (what.get("options") or {}).get("stamped_headers") or ()
    if not isinstance(stamps, list | tuple | set | frozenset) or not all(isinstance(stamp, str) for stamp in stamps):
        raise _not_a_canvas(f"{visit.place} has {str(stamps)[:50]!r} as its `stamped_headers`", "give a list of names")
    return kind


def _kind_of(what: _Canvas) -> str:
    kind, task = what.get("subtask_type"), what.get("task")
    if kind and isinstance(kind, str):
        return kind
    return _KIND_BY_TASK.get(task, "") if isinstance(task, str) else ""


def _members(visit: _Visit, key: str) -> list[Any]:
    """Return what a container holds. A lazy group is evaluated here, and remembers what it was made of."""
    tasks = visit.what["kwargs"].get(key)
    # As a chord's header, a chain is what Celery takes it for: its tasks, side by side.
    if key == "header" and isinstance(tasks, Mapping) and _kind_of(tasks) == "chain" and isinstance(tasks.get("kwargs"), Mapping):
        tasks = tasks["kwargs"].get("tasks")
    if isinstance(tasks, Mapping):
        return [tasks]
    if isinstance(tasks, str | bytes) or not isinstance(tasks, Iterable):
        raise _not_a_canvas(f"{visit.place} is a {_kind_of(visit.what)} whose {key} are a '{_type_name(tasks)}', not a list", "")
    return list(tasks)


def _is_empty(step: Any) -> bool:
    if not isinstance(step, Mapping) or _kind_of(step) not in ("group", "chain") or not isinstance(step.get("kwargs"), Mapping):
        return False
    tasks = step["kwargs"].get("tasks")
    return tasks is not None and not tasks


def _is_fan(step: Any) -> bool:
    """Tell whether a step of a chain is a group that Celery does not unroll."""
    if not isinstance(step, Mapping) or not isinstance(step.get("kwargs"), Mapping):
        return False
    tasks = step["kwargs"].get("tasks")
    return _kind_of(step) in _GROUPS and not (isinstance(tasks, list | tuple) and len(tasks) == 1)


def _ends_in_body(step: Any) -> bool:
    """Tell whether what ends last in a step of a chain is the body of a chord."""
    while isinstance(step, Mapping) and isinstance(step.get("kwargs"), Mapping):
        kind = _kind_of(step)
        if kind == "chord":
            return step["kwargs"].get("body") is not None
        tasks = step["kwargs"].get("tasks")
        if kind != "chain" or not isinstance(tasks, list | tuple):
            return False
        step = next((task for task in reversed(tasks) if not _is_empty(task)), None)
    return False


def _passed_on(visit: _Visit) -> _Passed:
    """Return what a container hands down: what it was handed, and what is its own."""
    what, passed = visit.what, visit.passed
    options = what.get("options") or {}
    args = tuple(what.get("args") or ())
    # A chord keeps the keyword arguments for its header in its own.
    kwargs = what["kwargs"].get("kwargs") or {}
    is_sealed = bool(what.get("immutable"))
    if not (options or args or kwargs or is_sealed):
        return passed
    own = {key: value for key, value in options.items() if key not in RESERVED_OPTIONS | _CALLBACKS and value is not None}
    return _Passed(
        options=_overridden(own, passed.options),
        link=_with(_listed(options.get("link")), passed.link),
        link_first=passed.link_first,
        link_error=_with(_listed(options.get("link_error")), passed.link_error),
        args=args if is_sealed else passed.args + args,
        kwargs=kwargs if is_sealed else {**kwargs, **passed.kwargs},
        is_sealed=is_sealed or passed.is_sealed,
    )


def _overridden(own: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge options; a signature's own stamps cannot be overridden."""
    stamps = {"stamped_headers", *(own.get("stamped_headers") or ())} if "stamped_headers" in own else ()
    return {**own, **{key: value for key, value in over.items() if key not in stamps or key not in own}}


def _listed(callbacks: Any) -> tuple[Any, ...]:
    if callbacks is None:
        return ()
    return tuple(callbacks) if isinstance(callbacks, list | tuple) else (callbacks,)


def _errbacks_of(what: _Canvas) -> tuple[Any, ...]:
    """Return the error callbacks of a chord's body, or of a member of one, as Celery looks for them.

    Of a chain its own, and not those of its steps; those of a chord are its own and those of what ends last in it.
    """
    found: tuple[Any, ...] = ()
    parts: list[Any] = [what]
    while parts:
        part = parts.pop()
        if not isinstance(part, Mapping):
            continue
        found = _with(found, _listed((part.get("options") or {}).get("link_error")))
        kind, inner = _kind_of(part), part.get("kwargs")
        if kind in ("chord", "group") and isinstance(inner, Mapping):
            ends = [inner.get("body")] if kind == "chord" else inner.get("tasks")
            parts.extend(reversed(ends if isinstance(ends, list | tuple) else []))
    return found


def _with_link(passed: _Passed, link: tuple[Any, ...], part: Any, *, is_body: bool) -> _Passed:
    """Hand a container's callbacks to the part that ends last in it.

    As options of a group they go to each member; linked to a group that is a chord's body, to the first without its value.
    """
    if is_body and isinstance(part, Mapping) and _kind_of(part) in _GROUPS:
        return passed._replace(link_first=link)
    return passed._replace(link=link)


def _with_link_first(passed: _Passed, member: Any) -> _Passed:
    """Hand a group's callbacks to its first member."""
    if isinstance(member, Mapping) and _kind_of(member) in _GROUPS:
        return passed
    return passed._replace(link=_with(passed.link, tuple(map(_immutable, passed.link_first))), link_first=())


def _without_delays(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in _DELAYS}


def _immutable(callback: Any) -> Any:
    return {**callback, "immutable": True} if isinstance(callback, Mapping) else callback


def _with(callbacks: tuple[Any, ...], more: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*callbacks, *(callback for callback in more if callback not in callbacks)) if more else callbacks


# --- signatures -----------------------------------------------------------------------------------------------------

_PASS_PLAIN_DATA = "pass text, numbers, lists and dicts, or a reference to the data"


def _signature(name: str, what: _Canvas, passed: _Passed, *, has_good_options: bool) -> Signature:
    """Write one task's signature as the core keeps it."""
    if len(what["task"]) > NAME_LENGTH_MAX:
        raise BadNode(name[:NAME_LENGTH_MAX], f"the task's name has more than {NAME_LENGTH_MAX} characters")
    args, kwargs, immutable = what.get("args") or (), what.get("kwargs") or {}, bool(what.get("immutable"))
    if not isinstance(kwargs, Mapping):
        raise BadNode(name, "`kwargs` must be a mapping")
    if not immutable:
        args = (*passed.args, *args) if passed.args else args
        kwargs = {**kwargs, **passed.kwargs} if passed.kwargs else kwargs
    options, countdown_s, eta_at = _split_options(name, what.get("options") or {}, passed)
    expires_at = _checked_options(name, options) if options and has_good_options else 0.0
    return Signature(
        task=what["task"],
        args=_json_array(name, args) if args else b"[]",
        kwargs=_json_object(name, kwargs, "argument") if kwargs else b"{}",
        options=_json_object(name, options, "option") if options else b"{}",
        immutable=immutable or passed.is_sealed,
        countdown_s=countdown_s,
        eta_at=eta_at,
        expires_at=expires_at,
    )


def _split_options(name: str, given: Mapping[str, Any], passed: _Passed) -> tuple[dict[str, Any], float, float]:
    """Return the options to publish with, the countdown in seconds and the start as Unix time."""
    options = _overridden({key: value for key, value in given.items() if key not in RESERVED_OPTIONS}, passed.options)
    if passed.link:
        options["link"] = list(_with(_listed(options.get("link")), passed.link))
    if passed.link_error:
        options["link_error"] = list(_with(_listed(options.get("link_error")), passed.link_error))
    serializer = options.get("serializer")
    if serializer is not None and not (isinstance(serializer, str) and serializer in SERIALIZERS):
        raise BadNode(
            name, f"serializer '{serializer}' is not accepted", next_step=f"use one of {', '.join(sorted(SERIALIZERS))}"
        )
    countdown, eta = options.pop("countdown", None) or 0, options.pop("eta", None)
    if not _is_seconds(countdown):
        raise BadNode(name, f"`countdown` must be a number of seconds, and is a '{_type_name(countdown)}'")
    # As in Celery, a countdown goes before an eta, and a negative one means now.
    return options, max(0.0, float(countdown)), 0.0 if countdown or eta is None else _unix_time(name, eta)


def _checked_options(name: str, options: dict[str, Any]) -> float:
    """Refuse what could not be published; return when it expires, which gets a time zone."""
    for option, value in options.items():
        flaw = flaw_of(option, value)
        if flaw is not None:
            raise BadNode(name, f"`{option}` {flaw.reason}", next_step=flaw.next_step)
    return _aware_expiry(name, options) if options.get("expires") is not None else 0.0


def _aware_expiry(name: str, options: dict[str, Any]) -> float:
    """Return when a task expires if that is a certain time, and give it a time zone: without one, it could not be published.

    A number counts from the dispatch, and is the worker's to judge.
    """
    expires = options["expires"]
    if is_number(expires) and abs(expires) <= SECONDS_MAX:
        return 0.0
    moment: Any = expires.get("__value__") if isinstance(expires, Mapping) else expires
    try:
        moment = moment if isinstance(moment, datetime) else datetime.fromisoformat(moment)
    except (TypeError, ValueError):
        next_step = f"write {expires.total_seconds():g}" if isinstance(expires, timedelta) else "give a datetime, or seconds"
        words = f"`expires` must be a number of seconds, a datetime or ISO 8601 text, and is {shown(expires)}"
        raise BadNode(name, words, next_step=next_step) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
        options["expires"] = moment.isoformat()
    return max(0.0, float(moment.timestamp()))


def _is_seconds(value: Any) -> bool:
    # Python's integers have no bound, and floats do.
    return isinstance(value, int | float) and abs(value) <= _SECONDS_MAX


def _unix_time(name: str, eta: Any) -> float:
    """Read a start time: a datetime, its text, kombu's typed form of it, or Unix seconds.

    Without a time zone it is in UTC, whatever the app's time zone: that is how workers read it (``maybe_make_aware``).
    """
    if _is_seconds(eta):
        return max(0.0, float(eta))
    moment: Any = eta.get("__value__") if isinstance(eta, Mapping) else eta
    try:
        moment = moment if isinstance(moment, datetime) else datetime.fromisoformat(moment)
    except (TypeError, ValueError):
        raise BadNode(name, f"`eta` must be a datetime or ISO 8601 text, and is a '{_type_name(eta)}'") from None
    seconds: float = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return max(0.0, seconds)


def _json_array(name: str, args: Sequence[Any]) -> bytes:
    try:
        return _json_text(args)
    # Kombu asks the values themselves (``__json__``), which may raise anything.
    except Exception as error:
        _blame(name, ((f"argument {position}", value) for position, value in enumerate(args, start=1)))
        raise BadNode(name, f"the arguments cannot be written as JSON: {error}", next_step=_PASS_PLAIN_DATA) from error


def _json_object(name: str, members: Mapping[str, Any], word: str) -> bytes:
    try:
        return _json_text(members)
    except Exception as error:
        _blame(name, ((f"{word} '{key}'", value) for key, value in members.items()))
        raise BadNode(name, f"the {word}s cannot be written as JSON: {error}", next_step=_PASS_PLAIN_DATA) from error


def _blame(name: str, values: Iterable[tuple[str, Any]]) -> None:
    """Raise `BadNode` for the first value that JSON cannot carry."""
    for words, value in values:
        try:
            _json_text(value)
        except Exception as error:
            reason = f"{words} is a '{_type_name(value)}' that JSON cannot carry: {error}"
            raise BadNode(name, reason, next_step=_PASS_PLAIN_DATA) from error


def _json_text(value: object) -> bytes:
    # NaN and Infinity are no JSON: the daemon would refuse them without knowing the node.
    text: str = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.encode()


def _told(signature: Signature | None, task_id: str) -> Signature | None:
    """Write a task id before the arguments of an error callback."""
    if signature is None:
        return None
    rest = signature.args[1:].strip()
    return replace(signature, args=b'["%s"%s%s' % (task_id.encode(), b"" if rest == b"]" else b",", rest))


# --- errors and checks ----------------------------------------------------------------------------------------------


def _not_a_canvas(message: str, next_step: str) -> NotACanvas:
    error = NotACanvas(message)
    if next_step:
        error.next_step = next_step
    return error


def _what_to_write_for(what: object) -> str:
    """Guess what the caller meant."""
    if hasattr(what, "apply_async") and hasattr(what, "name"):
        return f"write `{str(what.name).rpartition('.')[2]}.s(...)`: this is the task itself"
    if hasattr(what, "get") and hasattr(what, "id"):
        return "write `.s(...)` instead of `.delay(...)`: this task has been sent already"
    return ""


def _type_name(value: object) -> str:
    return type(value).__name__


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LENGTH_MAX:
        raise BadRequest(
            f"a name must be text of 1 to {NAME_LENGTH_MAX} characters, and this is {str(name)[:50]!r}", path="$.name"
        )
    return name


def _checked_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    checked: dict[Any, Any] = dict(labels or {})
    if len(checked) > LABELS_MAX:
        raise BadRequest(f"a workflow has {LABELS_MAX} labels at most, and these are {len(checked)}", path="$.labels")
    for key, value in checked.items():
        if (
            not isinstance(value, str)
            or len(value) > NAME_LENGTH_MAX
            or not isinstance(key, str)
            or not 0 < len(key) <= NAME_LENGTH_MAX
        ):
            raise BadRequest(f"label {key!r} must be text of {NAME_LENGTH_MAX} characters at most", path="$.labels")
    return checked
