"""The public builder: a workflow node by node, or from canvases.

Long because each kind of node has a method here, with all that may be said of it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final
from uuid import uuid4

from dyrygentd.canvas.choosing import Branches, Test, bad_section, is_recipe, value_of, when_given
from dyrygentd.canvas.draft import Draft, checked_labels, checked_name
from dyrygentd.canvas.importer import Importer
from dyrygentd.canvas.maps import ListSource, draft_of_canvas, map_child, refuse_result
from dyrygentd.canvas.parts import CONTAINERS
from dyrygentd.canvas.policy_checks import check_rule, checked_part, checked_policy, checked_seconds, checked_word, node_policy
from dyrygentd.canvas.refs import NodeRef, SectionRef
from dyrygentd.canvas.visits import NOTHING, Visit, checked_kind, not_a_canvas
from dyrygentd.core.bounds import POLL_EVERY_MAX_S, POLL_EVERY_MIN_S
from dyrygentd.core.conditions import BadWhen
from dyrygentd.core.graph import Definition
from dyrygentd.core.options import shown
from dyrygentd.core.policy import (
    PLAIN,
    PLAIN_WORKFLOW,
    HandsOn,
    Hook,
    NodePolicy,
    OnClose,
    OnLost,
    Retry,
    Rule,
    WorkflowPolicy,
)
from dyrygentd.core.series import IfRunning, series_of
from dyrygentd.errors import BadNode


class Workflow:
    """Build a workflow node by node, or from canvases.

    Guards: nodes refer to nodes of this workflow that exist already, so there is no cycle; a call that raises adds nothing.

    Args:
        series: A name under which runs follow each other.
        if_running: While another run of the series has not finished: ``allow`` (the default), ``skip``, ``queue_one`` or
            ``cancel_old``.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        payload: object = None,
        policy: WorkflowPolicy = PLAIN_WORKFLOW,
        series: str | None = None,
        if_running: IfRunning | str | None = None,
    ) -> None:
        self.name = None if name is None else checked_name(name)
        self.labels = checked_labels(labels)
        self.payload = payload
        self.policy = checked_policy(policy)
        self.series = series_of(series, if_running)
        self._draft = Draft()

    def __len__(self) -> int:
        return len(self._draft)

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
        redeliveries_max: int | None = None,
        expands: bool = False,
        payload: object = None,
        when: Test | Mapping[str, Any] | None = None,
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
            redeliveries_max: How often the broker may give one attempt out again, as it does when its worker dies with it (with
                ``acks_late`` and ``reject_on_worker_lost``); then the attempt has failed. 0 for as often as the broker likes; by
                default as the workflow's policy says, else the daemon's configuration.
            expands: The task returns a definition, or a canvas: it is run as a workflow of its own, and the node's value is its
                result.
            payload: Free data of yours, shown with the node to you and admins: long texts and lists cut, secrets hidden.
            when: A condition: ``value_of(check, "status").is_("full")``, or as it is written in a definition. If it does not
                hold, the node is skipped as not needed. The node that is asked need not be in ``after``: it only decides then.

        Raises:
            NotACanvas, BadNode, DuplicateNode
        """
        policy = node_policy(
            name,
            rule=rule,
            pool=pool,
            retry=retry,
            timeout_s=timeout_s,
            on_lost=on_lost,
            idempotent=idempotent,
            redeliveries_max=redeliveries_max,
            expands=expands,
            payload=payload,
        )
        return self._add_one(signature, after, name, policy, when)

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
        when: Test | Mapping[str, Any] | None = None,
    ) -> NodeRef:
        """Add a task that is repeated until it returns something true; between two times it holds no worker.

        Args:
            every_s: Seconds from one answer to the next question, 0.1 or more.
            timeout_s: Longest time from the first question on, 0 for no bound. Then the node has failed.
            retry: How often a question that raises is repeated before the node has failed.

        Raises:
            NotACanvas, BadNode, DuplicateNode
        """
        if not POLL_EVERY_MIN_S <= checked_seconds(name or "poll", "every_s", every_s) <= POLL_EVERY_MAX_S:
            least, most = f"{POLL_EVERY_MIN_S:g} seconds or more", f"{POLL_EVERY_MAX_S} seconds or less"
            raise BadNode(name or "poll", f"`every_s` is {every_s:g}", next_step=f"use {least if every_s < 1 else most}")
        policy = node_policy(
            name, rule=rule, pool=pool, retry=retry, payload=payload, poll_every_s=every_s, poll_timeout_s=timeout_s
        )
        return self._add_one(signature, after, name, policy, when)

    def gate(
        self,
        name: str,
        *,
        after: NodeRef | Iterable[NodeRef] = (),
        rule: Rule | str = Rule.ALL_SUCCEEDED,
        payload: object = None,
        when: Test | Mapping[str, Any] | None = None,
    ) -> NodeRef:
        """Add a point that is passed when an operator releases it; it hands on the value of what precedes it."""
        return self._add_taskless(name, after, node_policy(name, rule=rule, payload=payload, is_gate=True), when)

    def sleep(
        self,
        seconds: float,
        *,
        after: NodeRef | Iterable[NodeRef] = (),
        rule: Rule | str = Rule.ALL_SUCCEEDED,
        name: str | None = None,
        when: Test | Mapping[str, Any] | None = None,
    ) -> NodeRef:
        """Add a pause that holds no worker; it hands on the value of what precedes it."""
        if checked_seconds(name or "sleep", "seconds", seconds) == 0:
            raise BadNode(name or "sleep", "a pause must be longer than 0 seconds", next_step="leave it out, or give its length")
        return self._add_taskless(name, after, node_policy(name, rule=rule, sleep_s=seconds), when)

    def add_workflow(
        self,
        what: object,
        *,
        name: str | None = None,
        values: Mapping[str, Any] | None = None,
        input: str | None = None,
        after: NodeRef | Iterable[NodeRef] = (),
        rule: Rule | str = Rule.ALL_SUCCEEDED,
        on_close: OnClose | str = OnClose.CANCEL,
        payload: object = None,
        when: Test | Mapping[str, Any] | None = None,
    ) -> NodeRef:
        """Add a workflow of its own, which begins when its turn comes, and whose result is the node's value.

        Args:
            what: A `Workflow`, a canvas, or a definition document (a dict with ``nodes``), whose parameters are its own.
            values: ``{name: value}`` of parameters of the document.
            input: Name of the parameter that gets the value of what precedes, the list of the values of several.
            on_close: What becomes of it when this node no longer waits for it, since it was cancelled or skipped: ``cancel``, or
                ``abandon``, so that it goes on by itself.

        Raises:
            NotACanvas, BadNode, DuplicateNode
        """
        from dyrygentd.canvas.subworkflows import child_of

        node = name or "workflow"
        definition, is_named = _definition_inside(what)
        child = child_of(
            node,
            definition,
            is_named=is_named,
            values=values,
            input_name=input,
            on_close=checked_word(OnClose, node, "on_close", on_close),
        )
        return self._add_taskless(name, after, node_policy(name, rule=rule, payload=payload, child=child), when)

    @contextmanager
    def section(self, name: str, *, when: Test | Mapping[str, Any] | None = None) -> "Iterator[SectionRef]":
        """Have what is added meanwhile belong to a section, as it is shown folded; sections may stand in each other.

        The section can be given what runs at its end: see `SectionRef.finally_` and `SectionRef.hook`.

        Args:
            when: A condition, as for `add`: if it does not hold, nothing of the section is run, also not what is at its end.

        Raises:
            BadRequest: It is no name or path of a section.
        """
        path = checked_part(self._draft.section, name)
        if when is not None:
            self._set_section_when(path, when)
        with self._inside(path):
            yield SectionRef(self, path)

    @contextmanager
    def _inside(self, path: str) -> Iterator[None]:
        outer, self._draft.section = self._draft.section, path
        try:
            yield
        finally:
            self._draft.section = outer

    def map(
        self,
        do: object,
        over: Any = None,
        *,
        after: NodeRef | Iterable[NodeRef] = (),
        rule: Rule | str = Rule.ALL_SUCCEEDED,
        name: str | None = None,
        payload: object = None,
        **fields: Any,
    ) -> NodeRef:
        """Do something with each item of a list that may be known only while the workflow runs; its value is the list of theirs.

        ``workflow.map(resize.s(200), over=images)`` calls ``resize(image, 200)`` for each image in what ``images`` returns.

        Args:
            do: A signature, or a canvas through which each item goes on its own: what comes first in it is given the item as its
                first argument. Or a function that adds nodes to the workflow that it is given, and may return the one whose value
                is the item's.
            over: The node whose value is the list, or the list itself; by default what precedes.
            fields: ``key``: members are called by this field of their item, ``"."`` for the item itself, and not by its number.
                ``batch``: so many items go to one member, as a list. ``spread``: items are lists or dictionaries of arguments.
                ``max_items`` (10,000): a longer list fails the node. ``in_flight_max``, ``pool``: of its tasks. ``on_failure``:
                ``"continue"`` or ``"stop"``. ``min_success``: so many members have to succeed, a number or a share up to 1.0.
                ``if_empty``: ``"succeed"``, ``"skip"`` or ``"fail"``.

        Raises:
            NotACanvas, BadNode, DuplicateNode
        """
        node = name or f"number {len(self) + 1}"
        is_before = isinstance(over, NodeRef)
        dependencies = [*([over] if is_before else []), *([after] if isinstance(after, NodeRef) else after)]
        source = ListSource(over.number if is_before else over, is_before, self._numbers_of(dependencies, name))
        child = map_child(node, self._draft, self._done_with_each(node, do), source, fields)
        return self._add_taskless(name, dependencies, replace(node_policy(name, rule=rule, payload=payload), child=child))

    def _done_with_each(self, node: str, do: object) -> tuple[Draft, int | None]:
        """Return what a map does with each item, and the node of it that has its value."""
        # A task can be called, too; what was meant is a signature of it.
        if isinstance(do, Mapping) or not callable(do) or hasattr(do, "apply_async"):
            return draft_of_canvas(do)
        inner = Workflow()
        result = do(inner)
        if result is not None and not (isinstance(result, NodeRef) and result.workflow is inner):
            refuse_result(node, result)
        return inner._draft, result.number if isinstance(result, NodeRef) else None

    def hook(self, when: Hook | str, signature: object, *, name: str | None = None, retry: Retry | int | None = None) -> NodeRef:
        """Add a task that runs when everything else has finished.

        A mutable signature gets a summary as first argument: ``{"workflow_id", "name", "labels", "state", "error",
        "failures": number, "failed": [{"node", "error"}]}``, with at most 20 failures named.

        Args:
            when: On ``success``, on ``failure``, or ``always``; not after a cancel.
        """
        return self._add_one(signature, (), name, node_policy(name, hook=when, retry=retry))

    def _add_taskless(
        self, name: str | None, after: NodeRef | Iterable[NodeRef], policy: NodePolicy, when: object = None
    ) -> NodeRef:
        self._draft.check_new_name(name)
        self._check_when(name, when)
        numbers = self._numbers_of(after, name)
        check_rule(name, policy, numbers)
        reference = self._named(self._draft.add(None, numbers), name)
        self._set_policy(reference, policy)
        self._set_when([reference.number], when)
        return reference

    def _add_one(
        self,
        signature: object,
        after: NodeRef | Iterable[NodeRef],
        name: str | None,
        policy: NodePolicy,
        when: object = None,
    ) -> NodeRef:
        self._check_when(name, when)
        reference = self._add_task(signature, after, name, policy)
        self._set_policy(reference, policy)
        self._set_when([reference.number], when)
        return reference

    def _set_when(self, numbers: Iterable[int], when: object) -> None:
        if when is not None:
            self._draft.whens.update(dict.fromkeys(numbers, when))

    def _check_when(self, name: str | None, when: object) -> None:
        """Raise `BadNode` if a condition cannot be read; its nodes may still be given other names."""
        if when is not None:
            try:
                when_given(when, lambda reference: self._name_asked(reference, name))
            except BadWhen as error:
                raise BadNode(name or f"number {len(self) + 1}", f"`when`: {error.reason}", next_step=error.next_step) from None

    def _set_section_when(self, path: str, when: object) -> None:
        try:
            written = when_given(when, lambda reference: self._name_asked(reference, None))
        except BadWhen as error:
            raise bad_section(path, error) from None
        known = self._draft.section_whens.get(path)
        if known is not None and when_given(known, lambda reference: self._name_asked(reference, None)) != written:
            raise bad_section(path, BadWhen("the section has another one already", "give the section another name"))
        self._draft.section_whens[path] = when

    def _name_asked(self, reference: Any, name: str | None) -> str:
        """Return the name of a node that a condition asks about."""
        if not isinstance(reference, NodeRef):
            raise BadWhen(f"`value` is {shown(reference)}", "name a node by what add() returned, or by its name")
        self._numbers_of(reference, name)
        return reference.name

    def _set_policy(self, reference: NodeRef, policy: NodePolicy) -> None:
        if policy != PLAIN:
            self._draft.policies[reference.number] = policy

    def _add_task(self, signature: object, after: NodeRef | Iterable[NodeRef], name: str | None, policy: NodePolicy) -> NodeRef:
        self._draft.check_new_name(name)
        numbers = self._numbers_of(after, name)
        check_rule(name, policy, numbers)
        visit = Visit(signature, numbers, NOTHING, "what was added")
        if checked_kind(visit) in CONTAINERS:
            raise not_a_canvas(f"add() takes one task, and this is a {checked_kind(visit)}", "use add_canvas() for it")
        return self._named(Importer(self._draft).add_task(visit, name=name), name)

    def join(
        self,
        after: NodeRef | Iterable[NodeRef],
        *,
        rule: Rule | str = Rule.ALL_SUCCEEDED,
        name: str | None = None,
        hands_on: HandsOn | str = HandsOn.ALL,
        when: Test | Mapping[str, Any] | None = None,
    ) -> NodeRef:
        """Add a point where others meet; it is no task, and its value is the list of theirs.

        Args:
            rule: ``none_failed`` goes on behind branches of which some were not needed.
            hands_on: ``all`` values, with None for what has none, those of what ``succeeded``, or the value of ``one`` as it is.
        """
        word = checked_word(HandsOn, name or "join", "hands_on", hands_on)
        return self._add_taskless(name, after, node_policy(name, rule=rule, hands_on=word), when)

    def switch(
        self,
        on: NodeRef,
        cases: Mapping[Any, object],
        *,
        default: object = None,
        path: str | Sequence[str | int] = "",
        name: str | None = None,
    ) -> NodeRef:
        """Run one of several branches, by what a node returned; the others are skipped as not needed.

        Args:
            cases: ``{value: branch}``. A branch is a signature or canvas, which is given the value if it is mutable; or a
                function without arguments that adds nodes and returns the one that has the branch's value; or None for nothing.
            default: The branch for all other values; by default nothing is run for them.
            path: What leads into the value, as in `value_of`.
            name: Of the join behind the branches.

        Returns:
            A join behind the branches. Its value is that of the branch that ran, None if none did.

        Raises:
            NotACanvas, BadNode, DuplicateNode
        """
        self._draft.check_new_name(name)
        self._numbers_of(on, name)
        ends = []
        for section, when, branch in Branches(on, cases, default, path).all:
            with self.section(f"{name or on.name}", when=None), self.section(section, when=when):
                end = branch() if is_recipe(branch) else self.add_canvas(branch, after=on)
            ends.append(end)
        # What asks for a value that nobody needed is not needed either, and neither is what follows.
        return self.join(ends, rule=Rule.NONE_FAILED, name=name, hands_on=HandsOn.ONE, when=value_of(on).exists())

    def add_canvas(
        self,
        canvas: object,
        *,
        after: NodeRef | Iterable[NodeRef] = (),
        name: str | None = None,
        when: Test | Mapping[str, Any] | None = None,
    ) -> NodeRef:
        """Add a canvas; ``name`` names the node that has its value, which is returned. ``when`` holds for all of its nodes.

        Raises:
            NotACanvas, BadNode, DuplicateNode
        """
        self._draft.check_new_name(name)
        numbers = self._numbers_of(after, name)
        self._check_when(name, when)
        mark, fans = len(self), dict(self._draft.fans)
        try:
            if len(numbers) > 1 and checked_kind(Visit(canvas, (), NOTHING, "the canvas")) in CONTAINERS:
                # Else each member of a group would depend on each of them. The value is the same list.
                numbers = (self._draft.add(None, numbers),)
            value = Importer(self._draft).read(canvas, numbers)
            if value is None:
                raise not_a_canvas("the canvas has no tasks", "leave it out, or put at least one task into it")
        except BaseException:
            self._draft.cut(mark)
            self._draft.fans = fans
            raise
        reference = self._named(self._draft.one_node(value), name)
        self._set_when(range(mark, len(self)), when)
        return reference

    def definition(self, *, key: str | None = None) -> Definition:
        """Return what is submitted. Each call makes new task ids, but for those that signatures bring along.

        Raises:
            EmptyWorkflow, BadRequest
        """
        return definition_of_workflow(self, key=key, new_id=lambda: str(uuid4()))

    def _named(self, number: int, name: str | None) -> NodeRef:
        if name is not None:
            self._draft.give_name(number, name)
        return NodeRef(self, number)

    def _numbers_of(self, after: Any, name: str | None) -> Sequence[int]:
        numbers: dict[int, None] = {}
        if not isinstance(after, Iterable) and not isinstance(after, NodeRef):
            raise BadNode(name or f"number {len(self) + 1}", f"`after` is {shown(after)}", next_step=_NAME_BY_REFERENCE)
        for reference in (after,) if isinstance(after, NodeRef) else after:
            node = name or f"number {len(self) + 1}"
            if not isinstance(reference, NodeRef):
                raise BadNode(
                    node,
                    f"`after` has a '{type(reference).__name__}' in it",
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


def _definition_inside(what: object) -> tuple[Definition | Mapping[str, Any], bool]:
    """Return the definition of what is to do the work of a node, and whether it has a name that somebody gave it."""
    # A signature is a dict too, so only a plain one is a document.
    if isinstance(what, Definition) or type(what) is dict:
        return what, True
    if not isinstance(what, Workflow):
        inner = Workflow()
        inner.add_canvas(what)
        what = inner
    return definition_of_workflow(what, key=None, new_id=lambda: str(uuid4())), what.name is not None


def draft_of(workflow: Workflow) -> Draft:
    """Return what a workflow has been built to so far: for this program's own use."""
    return workflow._draft


def definition_of_workflow(
    workflow: Workflow, *, key: str | None, new_id: Callable[[], str], is_known: bool = True, calls_overrides: bool = False
) -> Definition:
    """Return what is submitted, see `Draft.definition`."""
    return draft_of(workflow).definition(
        name=workflow.name,
        labels=workflow.labels,
        key=key,
        output=None,
        new_id=new_id,
        payload=workflow.payload,
        policy=workflow.policy,
        series=workflow.series,
        is_known=is_known,
        calls_overrides=calls_overrides,
    )


_NAME_BY_REFERENCE: Final = "name nodes by what add(), join() and add_canvas() return"
