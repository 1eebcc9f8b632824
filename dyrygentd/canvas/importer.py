"""Adds a canvas to a draft: which node depends on which, and what each is handed.

What a canvas is worth to whoever comes after it is one node (task, chain, chord), or a list of nodes (group, and a chain or chord
that ends in one). A list becomes a join when something depends on it, when it is a chord's header, when it is a member of another
list, or when it is the value of the whole. A group that stands directly in a group is spliced into it, in source order.

Celery 5.6 and 5.7 build different trees for one expression (``group | task`` is a chord in one place and a chain in another); the
rules below give both the same edges.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dyrygentd.canvas.draft import Draft
from dyrygentd.canvas.parts import (
    CONTAINERS,
    GROUPS,
    are_unlike,
    ends_in_body,
    errbacks_of,
    first_word,
    is_empty,
    is_fan,
    kind_of,
    united,
)
from dyrygentd.canvas.signatures import checked_id, signature_of
from dyrygentd.canvas.visits import (
    NOTHING,
    Header,
    Passed,
    TaskIdOf,
    Visit,
    Worth,
    checked_kind,
    members_of,
    not_a_canvas,
    passed_on,
    with_link,
    with_link_first,
    without_delays,
)
from dyrygentd.core.policy import NodePolicy, Rule
from dyrygentd.core.sections import flaw_of_section, inside
from dyrygentd.errors import EmptyWorkflow
from dyrygentd.tasks.callbacks import called_for_body
from dyrygentd.tasks.submitted import with_dumped_models


class _Errbacks(NamedTuple):
    """Error callbacks that are called if the header of a chord fails, and the node of the body that they are called for."""

    callbacks: Sequence[Any]
    header: Header
    body: int


_Walk = Generator[Visit, Worth | None, Worth | None]


class Importer:
    """Adds a canvas to a draft.

    A walk reads one container: it yields the parts to be read and is sent what they are worth. The walks under way are a list,
    so depth costs no recursion.

    If the header of a chord fails, Celery's workers call the error callbacks of its body, which never runs. Nobody sees a body
    that is not sent, so these callbacks become nodes here, which are skipped if all goes well.
    """

    def __init__(self, draft: Draft, *, has_good_options: bool = True) -> None:
        self._draft = draft
        #: Whether publish options with which nothing could be published are refused.
        self._has_good_options = has_good_options
        self._errbacks: list[_Errbacks] = []
        self._is_at_errbacks = False
        self._walks = {
            "chain": self._walk_chain,
            "group": self._walk_group,
            "chord": self._walk_chord,
            "chunks": self._walk_chunks,
        }

    def __repr__(self) -> str:
        return f"<Importer {self._draft!r} errbacks={len(self._errbacks)}>"

    def read(self, canvas: object, after: Sequence[int], passed: Passed = NOTHING) -> Worth | None:
        """Add all nodes of a canvas and return what it is worth; ``passed`` is what its `apply_async` would be given."""
        value = self._read(Visit(canvas, after, passed, "the canvas"))
        if isinstance(canvas, Mapping):
            self._draft.known.note(canvas)
        self._add_errbacks()
        return value

    def read_whole(self, canvas: object, passed: Passed) -> int:
        """Add the canvas that is all of a workflow, and return the node that has its value.

        Raises:
            EmptyWorkflow: It is a chain without tasks. A group of nothing is a list of nothing, as for Celery.
        """
        value = self.read(canvas, (), passed)
        if value is None:
            if kind_of(canvas) == "chain":
                raise EmptyWorkflow
            value = []
        is_group = kind_of(canvas) in GROUPS
        if is_group and isinstance(value, list) and len(value) == 1 and self._draft.signatures[value[0]] is None:
            # The only member is itself worth a list, and that is what `group.apply_async` answers with.
            return value[0]
        return self._draft.one_node(value)

    def _read(self, start: Visit) -> Worth | None:
        under_way: list[tuple[_Walk, str]] = []
        outer = self._draft.section
        try:
            return self._read_parts(start, under_way)
        finally:
            self._draft.section = outer

    def _read_parts(self, start: Visit, under_way: list[tuple[_Walk, str]]) -> Worth | None:
        visit: Visit | None = start
        value: Worth | None = None
        while True:
            if visit is not None:
                kind = checked_kind(visit)
                if visit.section is not None:
                    self._draft.section = visit.section
                if kind in CONTAINERS:
                    under_way.append((self._walks[kind](visit), self._draft.section))
                    value = None
                else:
                    value = self.add_task(visit)
            if not under_way:
                return value
            walk, self._draft.section = under_way[-1]
            try:
                visit = walk.send(value)
            except StopIteration as stop:
                under_way.pop()
                visit, value = None, stop.value

    def add_task(self, visit: Visit, *, name: str | None = None) -> int:
        """Add a single task."""
        name = name or self._draft.made_name(visit.what["task"], len(self._draft))
        passed, told_of = visit.passed, None
        if passed.args and isinstance(passed.args[0], TaskIdOf):
            told_of, passed = passed.args[0].node, passed._replace(args=passed.args[1:])
        known = self._draft.known
        known.note(visit.what)
        takes_input = bool(visit.after) and not passed.is_sealed
        what = with_dumped_models(known, visit.what, before=len(passed.args) + takes_input)
        signature = signature_of(name, what, passed, has_good_options=self._has_good_options)
        number = self._draft.add(signature, visit.after)
        if told_of is not None and not visit.what.get("immutable"):
            self._draft.told_of[number] = told_of
        task_id = (visit.what.get("options") or {}).get("task_id") or passed.task_id
        # An error callback may be that of several bodies.
        if task_id and not self._is_at_errbacks:
            self._draft.chosen_ids[number] = checked_id(name, task_id)
        self._note_errbacks(visit, number, number)
        return number

    def _note_errbacks(self, visit: Visit, value: Worth | None, mark: int) -> None:
        """Remember the error callbacks of a chord's body; its nodes are those from number ``mark`` on."""
        header = visit.header or visit.led_by
        if header is None or value is None:
            return
        callbacks = errbacks_of(visit.what)
        if visit.header is not None:
            callbacks = united(callbacks, visit.passed.link_error)
        else:
            # The chain has noted those that it hands down.
            callbacks = tuple(callback for callback in callbacks if callback not in visit.passed.link_error)
        if not callbacks:
            return
        tasks = (number for number in range(mark, len(self._draft)) if self._draft.signatures[number] is not None)
        is_task = isinstance(value, int) and self._draft.signatures[value] is not None
        body = value if isinstance(value, int) and is_task else next(tasks)
        self._errbacks.append(_Errbacks(callbacks, header, body))

    def _add_errbacks(self) -> None:
        """Add what was remembered, behind everything else, so that positions and names are what they are without."""
        draft = self._draft
        starts: dict[Header, Sequence[int]] = {}
        counts: dict[int, int] = {}
        self._is_at_errbacks = True
        while self._errbacks:
            callbacks, header, body = self._errbacks.pop(0)
            mark = len(draft)
            if header not in starts:
                starts[header] = self._start_of_errbacks(header)
            signature = draft.signatures[body]
            for callback in callbacks:
                if self._has_good_options and signature is not None:
                    callback = called_for_body(draft.known, callback, draft.name_of(body), signature.task)
                passed = Passed(args=(TaskIdOf(body),), is_sealed=True)
                self._read(Visit(callback, starts[header], passed, f"an error callback of '{draft.name_of(body)}'"))
            for number in range(mark, len(draft)):
                is_task = draft.signatures[number] is not None
                counts[body] = counts.get(body, 0) + is_task
                draft.asides[number] = (body, counts[body] if is_task else 0)

    def _start_of_errbacks(self, header: Header) -> Sequence[int]:
        """Add what the error callbacks wait for: the header has begun, one of its tasks has failed, and all have finished."""
        draft = self._draft
        failed = draft.add(None, (header.join,))
        draft.policies[failed] = NodePolicy(rule=Rule.ANY_FAILED)
        finished = draft.add(None, draft.after[header.join])
        draft.policies[finished] = NodePolicy(rule=Rule.ALL_FINISHED)
        return (*header.after, failed, finished)

    def _walk_chain(self, visit: Visit) -> _Walk:
        """Each step depends on the one before. The chain's options go to its first step, its link to the last."""
        steps = members_of(visit, "tasks")
        inner = passed_on(visit)
        start = len(self._draft)
        last = max((number for number, step in enumerate(steps) if not is_empty(step)), default=-1)
        passed = inner._replace(link=(), task_id="")
        value: Worth | None = None
        after = before = visit.after
        for number, step in enumerate(steps):
            if number == last:
                passed = with_link(passed, inner.link, step, is_body=isinstance(value, list))._replace(task_id=inner.task_id)
            mark = len(self._draft)
            header: Header | None = None
            if value is not None:
                after = (self._draft.one_node(value),)
                header = Header(after[0], before) if isinstance(value, list) else None
            if number < last and is_fan(step):
                # What follows makes it a chord's header, and error callbacks of a chord are for its body.
                passed = passed._replace(link_error=())
            found = yield Visit(
                step,
                after,
                passed,
                f"step {number + 1} of the chain",
                section=self._fan(step) if kind_of(step) in GROUPS else None,
                unrolls=True,
                header=header,
                led_by=visit.header or visit.led_by if value is None else None,
            )
            if found is None:
                # The step is empty; the join that was made for it is not needed.
                self._draft.cut(mark)
                continue
            before = after
            if isinstance(found, list) and len(found) == 1 and number < last and ends_in_body(step):
                # What follows such a chord takes each of the values of its body, and here there is one.
                found = found[0]
            # Celery makes a chord of a group and what follows it, and a chord's options are for its body too.
            is_header = isinstance(found, list) and kind_of(step) in GROUPS
            passed = Passed(without_delays(passed.options) if is_header else {}, link_error=inner.link_error)
            value = found
        self._note_errbacks(visit, value, start)
        return value

    def _walk_group(self, visit: Visit) -> _Walk:
        """All members depend on what precedes; their values are a list."""
        members = members_of(visit, "tasks")
        is_unrolled = visit.unrolls and len(members) == 1
        # A group's own id is that of its `GroupResult`.
        passed = passed_on(visit)._replace(task_id=visit.passed.task_id if is_unrolled else "")
        if is_unrolled:
            passed = passed._replace(link=passed.link + passed.link_first, link_first=())
        values = yield from self._walk_members(members, visit, passed, "member {} of the group", is_unrolled, visit.header)
        return values[0] if values and is_unrolled else values or None

    def _walk_chord(self, visit: Visit) -> _Walk:
        """The body depends on a join of the header, whose options it shares, and has the callbacks."""
        header, body = visit.what["kwargs"].get("header"), visit.what["kwargs"].get("body")
        inner = passed_on(visit)
        above = inner._replace(task_id="") if body is None else inner._replace(link=(), link_error=(), task_id="")
        if kind_of(header) == "group":
            found = yield Visit(header, visit.after, above, "the header of the chord", section=self._fan(header))
            values = found if isinstance(found, list) else []
        else:
            members = members_of(visit, "header")
            place = "member {} of the chord's header"
            values = yield from self._walk_members(members, visit, above, place, False, section=self._fan(visit.what))
        if body is None:
            return values or None
        below = Passed(without_delays(inner.options), link_error=inner.link_error, task_id=inner.task_id)
        below = with_link(below, inner.link, body, is_body=True)
        mark = len(self._draft)
        after: Sequence[int]
        its_header: Header | None = None
        if values:
            after = (self._draft.one_node(values),)
            its_header = Header(after[0], visit.after)
        else:
            # The body is called with []. Writing that into its arguments keeps it behind what precedes the chord.
            after, below = visit.after, below._replace(args=([],), is_sealed=True)
        found = yield Visit(body, after, below, "the body of the chord", header=its_header)
        if found is None:
            self._draft.cut(mark)
            return values or None
        self._note_errbacks(visit, found, mark)
        return found

    def _walk_members(
        self,
        members: Sequence[Any],
        visit: Visit,
        passed: Passed,
        place: str,
        is_unrolled: bool,
        header: Header | None = None,
        section: str | None = None,
    ) -> Generator[Visit, Worth | None, list[int]]:
        values: list[int] = []
        around = self._draft.section if section is None else section
        are_told_apart = are_unlike(members)
        # Members that are alike share the sections inside them.
        fans = most = self._draft.fans.get(around, 0)
        for number, member in enumerate(members):
            self._draft.fans[around] = fans
            handed = passed
            if passed.link_first:
                handed = with_link_first(passed, member) if number == 0 else passed._replace(link_first=())
            found = yield Visit(
                member,
                visit.after,
                handed,
                place.format(number + 1),
                section=self._section(around, f"member {number + 1} {first_word(member)}") if are_told_apart else around,
                unrolls=is_unrolled,
                header=header,
            )
            if isinstance(found, list) and kind_of(member) in GROUPS:
                values.extend(found)
            elif found is not None:
                values.append(self._draft.one_node(found))
            most = max(most, self._draft.fans[around])
        self._draft.fans[around] = most
        return values

    def _fan(self, what: Any) -> str:
        """Return the section of what stands side by side, a group or the header of a chord: its number and its first task."""
        around = self._draft.section
        self._draft.fans[around] = number = self._draft.fans.get(around, 0) + 1
        return self._section(around, f"{number} {first_word(what)}")

    def _section(self, around: str, part: str) -> str:
        """Return a part of a section that is begun, or the section itself if that would be too deep or have no name."""
        section = inside(around, part)
        if flaw_of_section(section):
            return around
        self._draft.fans.pop(section, None)
        return section

    def _walk_chunks(self, visit: Visit) -> _Walk:
        """Read it as the group of ``celery.starmap`` that Celery makes of it when it runs."""
        given = visit.what["kwargs"]
        task, size = given.get("task"), given.get("n")
        if not isinstance(size, int) or size < 1:
            raise not_a_canvas(f"{visit.place} is chunks of {size!r} items", "give a chunk size of 1 or more")
        if not isinstance(given.get("it"), Iterable | None):
            raise not_a_canvas(f"{visit.place} is chunks of a '{type(given['it']).__name__}'", "give a list of arguments as `it`")
        items = list(given.get("it") or ())
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        starmaps = [{"task": "celery.starmap", "kwargs": {"task": task, "it": part}, "immutable": True} for part in parts]
        group = {**visit.what, "task": "celery.group", "subtask_type": "group", "kwargs": {"tasks": starmaps}}
        return (yield visit._replace(what=group, unrolls=False))
