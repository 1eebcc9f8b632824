"""The graph that grows while a workflow is built: nodes, what they depend on, how they are called; in the end, a `Definition`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from dyrygentd.canvas.choosing import when_given
from dyrygentd.canvas.signatures import told
from dyrygentd.canvas.values import encode_value
from dyrygentd.core.bounds import LABELS_MAX, NAME_LENGTH_MAX
from dyrygentd.core.conditions import When
from dyrygentd.core.graph import Definition, Graph
from dyrygentd.core.ids import MadeIds
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.policy import PLAIN, PLAIN_WORKFLOW, NodePolicy, WorkflowPolicy
from dyrygentd.core.sections import is_in
from dyrygentd.core.series import Series
from dyrygentd.errors import BadRequest, DuplicateNode
from dyrygentd.tasks.known import KnownTasks
from dyrygentd.tasks.submitted import SubmittedSignatures

_NO_ASIDE: Final = (0, 0)


class Draft:
    """Nodes by number, in the order in which they were added; the builder and the importer both add to it.

    Guards: a node depends on nodes that exist already, so there is no cycle; no two nodes are given one name; names that were
    made up give way to those that were given.

    Attributes:
        known: The tasks behind the names, as far as the submitting program has them.
        signatures: None for what is no task: a join, a gate, a pause.
        after: The dependencies of each node.
        section: Of the nodes that are added, until it is set to another one; empty for none.
        fans: ``{section: how many groups and headers of chords are sections in it}``.
        policies: ``{node: policy}`` of nodes that have one.
        is_given: What comes first is given a value, too: it is done with each item of a map.
        whens: ``{node: condition}`` as it was given, and ``section_whens`` those of sections, by path.
        told_of: ``{node: node whose task id is its first argument}``, of error callbacks of chords' bodies.
        asides: ``{node: (body, number)}`` of what is there for the error callbacks of a chord's body only; 0 if it is no task.
        chosen_ids: ``{node: task id}`` that the signature brought along.
    """

    def __init__(self) -> None:
        self.known = KnownTasks()
        self.signatures: list[Signature | None] = []
        self.after: list[Sequence[int]] = []
        self.section = ""
        self.fans: dict[str, int] = {}
        self._sections: list[str] = []
        self.policies: dict[int, NodePolicy] = {}
        self.is_given = False
        self.whens: dict[int, Any] = {}
        self.section_whens: dict[str, Any] = {}
        self.told_of: dict[int, int] = {}
        self.asides: dict[int, tuple[int, int]] = {}
        self.chosen_ids: dict[int, str] = {}
        self._given_names: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._interned: dict[Signature, Signature] = {}

    def __len__(self) -> int:
        return len(self.signatures)

    def __repr__(self) -> str:
        return f"<Draft nodes={len(self)}>"

    def add(self, signature: Signature | None, after: Sequence[int]) -> int:
        """Add a node and return its number."""
        # Large workflows repeat few shapes, so equal signatures share one object.
        self.signatures.append(None if signature is None else self._interned.setdefault(signature, signature))
        self.after.append(after)
        self._sections.append(self.section)
        return len(self) - 1

    def cut(self, mark: int) -> None:
        """Forget the nodes from number ``mark`` on; none of them has been given a name."""
        del self.signatures[mark:], self.after[mark:], self._sections[mark:]
        for known in (self.policies, self.whens, self.told_of, self.asides, self.chosen_ids):
            for number in [number for number in known if number >= mark]:
                del known[number]

    def one_node(self, value: int | Sequence[int]) -> int:
        """Return the node that has this value; a list needs a join."""
        return value if isinstance(value, int) else self.add(None, tuple(value))

    def definition(
        self,
        *,
        name: str | None,
        labels: Mapping[str, str],
        key: str | None,
        output: int | None,
        new_id: Callable[[], str],
        payload: object = None,
        policy: WorkflowPolicy = PLAIN_WORKFLOW,
        series: Series | None = None,
        is_known: bool = True,
        calls_overrides: bool = False,
    ) -> Definition:
        """Return what is submitted; ``is_known``: with what the submitting program knows of its tasks."""
        chosen = self.chosen_ids
        task_ids = [
            "" if signature is None else chosen.get(number) or new_id() for number, signature in enumerate(self.signatures)
        ]
        is_fresh = isinstance(new_id, MadeIds)
        if output is None and self.asides:
            output = self._only_end()
        submitted = SubmittedSignatures(
            self.known if is_known else KnownTasks(),
            self.policies,
            self.asides,
            calls_overrides=calls_overrides,
            is_given=self.is_given,
        )
        graph = self._graph(submitted, task_ids, output)
        first_task = next((signature.task for signature in self.signatures if signature is not None), "workflow")
        # An `apply_async` that was called knows the id, and may have chosen another. One that stands among arguments has to stay
        # what it is, wherever the others are made.
        brought = {*chosen, *submitted.told}
        return Definition(
            graph=graph,
            name=name or first_task,
            key=key,
            labels=dict(labels),
            payload=b"null" if payload is None else encode_value(payload),
            policy=policy,
            series=series,
            chosen=frozenset(brought) if is_fresh else frozenset({*brought, *self.told_of.values()}),
            is_fresh=is_fresh,
        )

    def _graph(self, submitted: SubmittedSignatures, task_ids: Sequence[str], output: int | None) -> Graph:
        names = [self.name_of(number) for number in range(len(self))]
        policies = self._policies_with_whens()
        used = set(self._sections) if self.section_whens else set()
        whens = {path: _when(when) for path, when in self.section_whens.items() if any(is_in(each, path) for each in used)}
        return Graph.build(
            (
                NodeSpec(
                    names[number],
                    *submitted.signature(
                        number,
                        names[number],
                        signature if number not in self.told_of else told(signature, task_ids[self.told_of[number]]),
                        after,
                        task_ids[number],
                    ),
                    [names[dependency] for dependency in after],
                    policies.get(number, PLAIN),
                    self._sections[number],
                )
                for number, (signature, after) in enumerate(zip(self.signatures, self.after, strict=True))
            ),
            output=None if output is None else names[output],
            whens=whens,
        )

    def _policies_with_whens(self) -> Mapping[int, NodePolicy]:
        """Return the policies with the conditions in them: by now, names are as they stay."""
        if not self.whens:
            return self.policies
        return self.policies | {
            number: replace(self.policies.get(number, PLAIN), when=_when(when)) for number, when in self.whens.items()
        }

    def _only_end(self) -> int | None:
        """Return the only node without dependents, if there is but one besides hooks and what is there for error callbacks."""
        has_dependents = {number for node, after in enumerate(self.after) if node not in self.asides for number in after}
        ends = [
            number
            for number in range(len(self))
            if number not in has_dependents
            and number not in self.asides
            and self.policies.get(number, PLAIN).hook is None
            and self.policies.get(number, PLAIN).section_end is None
        ]
        return ends[0] if len(ends) == 1 else None

    def check_new_name(self, name: str | None) -> None:
        """Raise `BadRequest` or `DuplicateNode` if no node can be given this name."""
        if name is not None and checked_name(name) in self._numbers:
            raise DuplicateNode(name)

    def give_name(self, number: int, name: str) -> None:
        """Give a node a name that has been checked."""
        self._given_names[number] = name
        self._numbers[name] = number

    def name_of(self, number: int) -> str:
        """Return a node's name. One that was made up changes if another node is given the same."""
        if self.asides.get(number, _NO_ASIDE)[1]:
            return self._errback_name(*self.asides[number])
        signature = self.signatures[number]
        policy = self.policies.get(number, PLAIN)
        taskless = "sleep" if policy.sleep_s else "join" if policy.child is None else policy.child.kind
        return self._given_names.get(number) or self.made_name(taskless if signature is None else signature.task, number)

    def made_name(self, task: str, number: int) -> str:
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
        name = self.name_of(body)
        cut = name[: NAME_LENGTH_MAX // 2]
        made = f"{cut}.errback" if cut == name else f"{cut}-{body + 1}.errback"
        name = made if number == 1 else f"{made}-{number}"
        while name in self._numbers:
            name += "+"
        return name


def _when(given: Any) -> When:
    """Return a condition that was looked at when it was given."""
    return when_given(given, lambda reference: reference.name)  # type: ignore[attr-defined]


def checked_name(name: object) -> str:
    """Return the name of a workflow or node. Raises `BadRequest`."""
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LENGTH_MAX:
        raise BadRequest(
            f"a name must be text of 1 to {NAME_LENGTH_MAX} characters, and this is {str(name)[:50]!r}", path="$.name"
        )
    return name


def checked_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    """Return the labels of a workflow. Raises `BadRequest`."""
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
