"""The values of one workflow that somebody still needs: who takes which, what is made of them, and whether there is room.

The value of a node is kept until every node that wants it has succeeded (and the output's to the end), counted per value, so that
a failed node can be tried again. A join hands on a list of its members' values by reference, so they are kept as long as it is.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from dyrygentd.core.graph import Graph
from dyrygentd.core.members import marker_of_failed
from dyrygentd.core.node_states import FIRST_BAD, FIRST_FINISHED, NodeStates
from dyrygentd.core.policy import HandsOn
from dyrygentd.core.references import Referring, as_kept, references_in, size_of
from dyrygentd.core.states import NodeState
from dyrygentd.core.steps import Steps, parts
from dyrygentd.core.user import User
from dyrygentd.core.values import INLINE_BYTES, Joined, Text, Value, ValueBudget, as_one, in_order, taken_from
from dyrygentd.core.without_value import TOO_LARGE

#: No values go behind others.
_NOTHING: Final[Mapping[int, bytes]] = {}


class EndNotes(NamedTuple):
    """What is noted of nodes that ended without a value: who skips a value must know why, and a map's list says so.

    Attributes:
        unneeded: Nodes that were skipped by their rule: they may run yet, if something is retried.
        errors: ``{node: why it failed}``.
        blocked_by: ``{node: node}`` who is to blame for those that never ran.
    """

    unneeded: set[int]
    errors: Mapping[int, str]
    blocked_by: Mapping[int, int]


class KeptValues:
    """Values of nodes. Guards: each is there exactly as long as somebody may still take it, and its bytes are counted.

    Args:
        nodes: The states of the nodes, which tell who may still take a value.
        notes: As the workflow has them.
        owner: Whose bytes they are.
        bytes_max: Of one value.

    Attributes:
        by_node: ``{node: Value}``; not to be changed from outside.
        behind: ``{node: text}`` of values that go behind the node's own where that is put into a list: a list without brackets.
        bytes: What is kept for them, without what is made of others.
    """

    __slots__ = (
        "_budget",
        "_elsewhere",
        "_graph",
        "_nodes",
        "_notes",
        "_own",
        "_owner",
        "_states",
        "_unneeded",
        "behind",
        "by_node",
        "bytes",
        "bytes_max",
    )

    def __init__(
        self,
        nodes: NodeStates,
        graph: Graph,
        *,
        notes: EndNotes,
        owner: User | None,
        bytes_max: int,
    ) -> None:
        self._nodes = nodes
        self._states = nodes.states
        self._graph = graph
        self._notes = notes
        self._unneeded = notes.unneeded
        self._owner = None if owner is None else owner.identity
        self.bytes_max = bytes_max
        self.by_node: dict[int, Value] = {}
        self.behind: dict[int, bytes] = {}
        self.bytes = 0
        self._own = ""
        # How many texts name each value that is elsewhere.
        self._elsewhere: dict[str, int] = {}
        self._budget: ValueBudget | None = None

    def __repr__(self) -> str:
        return f"<KeptValues {len(self.by_node)} values, {self.bytes} bytes>"

    def count_in(self, budget: ValueBudget, workflow_id: str) -> None:
        """Have them counted among those of all workflows from now on; what is there already is kept in any case.

        Args:
            workflow_id: Whose values are let go elsewhere when nobody here needs them; those of others are theirs.
        """
        self._budget, self._own = budget, f"{workflow_id}/"
        for name in self._elsewhere:
            budget.taken(name)
        budget.add(self._owner, self.bytes)

    def count_out(self) -> None:
        """Have them counted no more."""
        if self._budget is not None:
            self._budget.add(self._owner, -self.bytes)
            self._budget = None

    def keep(self, node: int, text: Text) -> None:
        """Keep a value as long as somebody may take it; what an operator gave, in any case."""
        users = self._users_of(node)
        # What an operator gave is told to the result backend, too.
        if users or self._states[node] == NodeState.SKIPPED:
            behind = self.behind.get(node, b"") if self.behind else b""
            if type(text) is Referring:
                # Before the same value is dropped.
                self._refer(text)
            if behind:
                self.hold(behind)
            if node in self.by_node:
                self.drop(node)
            self.by_node[node] = Value(text, users)
            if behind:
                self.behind[node] = behind
            if isinstance(text, bytes):
                self._count_bytes(len(text))

    def _users_of(self, node: int) -> int:
        """Return how many may still take the value of a node, or have one that is made of it."""
        graph, states = self._graph, self._states
        users = 1 if node == graph.output else 0
        if graph.value_uses[node]:
            for dependent in graph.dependents(node):
                # What ends a section is set back when something of that is retried, so it may always run again.
                is_open = states[dependent] < FIRST_FINISHED or states[dependent] >= FIRST_BAD
                is_open |= self._nodes.is_at_the_end(dependent)
                if (is_open or dependent in self._unneeded or self.is_derived(dependent)) and graph.wants(dependent, node):
                    users += 1
        return users

    def is_derived(self, node: int) -> bool:
        """Tell whether a node has a value that is made of others'."""
        value = self.by_node.get(node)
        return value is not None and value.is_derived

    def drop(self, node: int) -> None:
        """Let a value go, if there is one."""
        value = self.by_node.pop(node, None)
        if value is not None and not value.is_derived:
            self._count_bytes(-len(value.text))
            if type(value.text) is Referring:
                self._refer(value.text, -1)
        if self.behind and node in self.behind and value is not None:
            self.let_go(self.behind.pop(node))

    def hold(self, text: bytes) -> None:
        """Count a text that is kept beside the values."""
        self._count_bytes(len(text))
        if type(text) is Referring:
            self._refer(text)

    def let_go(self, text: bytes) -> None:
        """Count a text out that was kept beside the values."""
        self._count_bytes(-len(text))
        if type(text) is Referring:
            self._refer(text, -1)

    @property
    def elsewhere(self) -> Collection[str]:
        """Names of the values that are kept elsewhere, and that somebody may still take."""
        return self._elsewhere.keys()

    def _refer(self, text: bytes, count: int = 1) -> None:
        """Count the references of a text in, or out; what is named no more is let go elsewhere, too."""
        elsewhere, budget = self._elsewhere, self._budget
        for reference in references_in(text):
            name = reference.name
            left = elsewhere.get(name, 0) + count
            if left:
                elsewhere[name] = left
                if budget is not None:
                    budget.taken(name)
                continue
            del elsewhere[name]
            if budget is not None and name.startswith(self._own):
                budget.released.append(name)

    def put_behind(self, node: int, values: bytes) -> None:
        """Have values go behind a node's own in lists, once that is kept."""
        if values:
            self.behind[node] = values

    def forget_behind(self) -> None:
        """Forget values that were to go behind ones that nobody takes."""
        for node in [node for node in self.behind if node not in self.by_node]:
            del self.behind[node]

    def _joined(self, node: int, texts: Sequence[Text]) -> Joined:
        """Return what a node makes of the values of its dependencies: a list, or what is handed on as it is."""
        is_list = self._graph.is_join(node) or len(texts) > 1
        if is_list and self.behind:
            dependencies = self._graph.dependencies(node)
            texts = [part for each, text in zip(dependencies, texts, strict=True) for part in self._with_behind(each, text)]
        return Joined(texts, is_list=is_list)

    def _with_behind(self, node: int, text: Text) -> Iterator[Text]:
        yield text
        if node in self.behind:
            yield self.behind[node]

    def release_inputs(self, node: int) -> None:
        """Count a node out that takes values no more; what nobody takes is let go."""
        if self._nodes.sections is not None and self._nodes.is_at_the_end(node):
            return
        stack = [node]
        while stack:
            for dependency in self._graph.wanted(stack.pop()):
                value = self.by_node.get(dependency)
                if value is None:
                    continue
                value.users -= 1
                # What an operator gave in the place of a value is there for a rerun, too: nobody could ask them again.
                if not value.users and self._states[dependency] != NodeState.SKIPPED:
                    self.drop(dependency)
                    self._nodes.changed.add(dependency)
                    if value.is_derived:
                        stack.append(dependency)

    def count_users_anew(self, reset: set[int]) -> Steps[None]:
        """Count who takes a value again, since nodes that had taken it are to run once more."""
        if not self.by_node:
            return
        kept: set[int] = set()
        for is_later, part in parts(reset):
            if is_later:
                yield
            kept.update(
                dependency for node in part for dependency in self._graph.dependencies(node) if dependency in self.by_node
            )
        for is_later, part in parts(kept):
            if is_later:
                yield
            for node in part:
                self.keep(node, self.by_node[node].text)

    def restore(self, stored: Mapping[int, bytes], behind: Mapping[int, bytes] = _NOTHING) -> None:
        """Keep the values that are stored, and those that are made of them and not."""
        if not stored:
            return
        self.behind = {node: as_kept(values) for node, values in behind.items() if node in stored}
        graph = self._graph
        made = in_order(
            (
                node
                for node in range(len(graph))
                if self._states[node] == NodeState.SUCCEEDED
                and node not in stored
                and not graph.is_task(node)
                and not graph.is_child(node)
                and graph.value_uses[node]
                and graph.takes_input(node)
                and graph.policy(node).hands_on is HandsOn.ALL
            ),
            graph.dependencies,
        )
        stored = {node: as_kept(text) for node, text in stored.items()}
        texts: dict[int, Text] = dict(stored)
        for node in made:
            dependencies = graph.inputs(node)
            if dependencies and all(dependency in texts for dependency in dependencies):
                texts[node] = self._joined(node, [texts[dependency] for dependency in dependencies])
        # Those first that are made of others: whether anybody takes them decides about what they are made of.
        for node in reversed(made):
            if node in texts:
                self.keep(node, texts[node])
        for node, text in stored.items():
            self.keep(node, text)
        self.forget_behind()

    def input_text(self, node: int) -> Text | None:
        """Return what is made of the values that precede a node that takes them, by reference if it is long."""
        dependencies = self._graph.inputs(node)
        if len(dependencies) == 1 and self._graph.signatures[node] is not None:
            # What each step of a chain is given: the value as it is.
            value = self.by_node.get(dependencies[0])
            if value is not None and not value.is_derived:
                return value.text
        contents = [self._content_of(node, dependency) for dependency in dependencies]
        if not contents and not self._graph.is_join(node):
            return None if self._graph.is_task(node) else b"null"
        is_list = self._graph.is_join(node) or len(contents) > 1
        text = self._joined(node, contents) if is_list else taken_from(contents, is_list=False)
        return text if len(text) > INLINE_BYTES else bytes(text)

    def _content_of(self, node: int, dependency: int) -> Text:
        value = self.by_node.get(dependency)
        if value is not None:
            return value.text
        if self._states[dependency] == NodeState.SUCCEEDED:
            raise self._nodes.broken(node, f"has lost the value of '{self._graph.names[dependency]}'")
        if self._states[dependency] >= FIRST_BAD and self._graph.policy(node).succeeded_min is not None:
            failed = self._notes.blocked_by.get(dependency, dependency)
            return marker_of_failed(self._graph.names[failed], self._notes.errors.get(failed, ""))
        return b"null"

    def missing(self, nodes: set[int]) -> Steps[tuple[int, int] | None]:
        """Return ``(node, dependency)`` if one of these cannot run again since a value it takes was let go."""
        for is_later, part in parts(sorted(nodes)):
            if is_later:
                yield
            for node in part:
                for dependency in self.gone(node):
                    if dependency not in nodes:
                        return node, dependency
        return None

    def gone(self, node: int) -> Iterator[int]:
        """Yield the dependencies whose values a node takes, and which were let go."""
        for dependency in self._graph.wanted(node):
            if dependency not in self.by_node and self._states[dependency] == NodeState.SUCCEEDED:
                yield dependency

    def handed_on(self, node: int) -> tuple[int, NodeState, Text | None, str]:
        """Return how a node without a task finishes, with the value that it hands on."""
        if not self._graph.takes_input(node):
            return node, NodeState.SUCCEEDED, None, ""
        for dependency in self._graph.inputs(node):
            if dependency not in self.by_node and self._states[dependency] == NodeState.SUCCEEDED:
                # Only the output may lack a value (`succeeded` fails the node otherwise), so nobody misses this list.
                return node, NodeState.SUCCEEDED, None, ""
        hands_on = self._graph.policy(node).hands_on
        if hands_on is not HandsOn.ALL:
            return self._some_handed_on(node, hands_on)
        value = self._text_handed_on(node)
        problem = self.too_much(value)
        return (node, self.state_without(node), None, problem) if problem else (node, NodeState.SUCCEEDED, value, "")

    def _some_handed_on(self, node: int, hands_on: HandsOn) -> tuple[int, NodeState, Text | None, str]:
        """Return how a join finishes that hands on what succeeded. It has a copy: who that was may change before it is let go."""
        graph, states, unneeded = self._graph, self._states, self._unneeded
        ran = [other for other in graph.inputs(node) if FIRST_FINISHED <= states[other] < FIRST_BAD and other not in unneeded]
        if hands_on is HandsOn.ONE and len(ran) > 1:
            first, second = graph.names[ran[0]], graph.names[ran[1]]
            more = f" and {len(ran) - 2} more" if len(ran) > 2 else ""
            return node, NodeState.FAILED, None, f"it hands on the value of one, and '{first}', '{second}'{more} have succeeded"
        contents: list[Text] = [self._content_of(node, dependency) for dependency in ran]
        if hands_on is HandsOn.ONE and not contents:
            contents = [b"null"]
        value = as_one(taken_from(contents, is_list=hands_on is HandsOn.SUCCEEDED))
        problem = self.too_much(value)
        return (node, self.state_without(node), None, problem) if problem else (node, NodeState.SUCCEEDED, value, "")

    def _text_handed_on(self, node: int) -> Text:
        """Return what a node without a task hands on: by reference, if all of it is there and cannot become anything else."""
        dependencies = self._graph.inputs(node)
        if dependencies and all(dependency in self.by_node for dependency in dependencies):
            return self._joined(node, [self.by_node[dependency].text for dependency in dependencies])
        value = self.input_text(node)
        assert value is not None
        return as_one(value)

    def state_without(self, node: int) -> NodeState:
        """Return what becomes of a node whose value cannot be kept: if only the result misses it, it has succeeded."""
        return NodeState.FAILED if self._graph.feeds_tasks[node] else NodeState.SUCCEEDED

    def too_much(self, value: Text) -> str:
        """Return why a value cannot be kept, empty if it can."""
        size, budget = size_of(value) if isinstance(value, bytes) else len(value), self._budget
        if size > self.bytes_max:
            return f"{TOO_LARGE % size} {self.bytes_max}: pass a reference to the data instead, or raise `value_bytes_max`"
        size = len(value)
        if budget is None or (self.bytes + size <= budget.workflow_bytes_max and budget.bytes + size <= budget.bytes_max):
            return ""
        return "" if isinstance(value, Joined) else self.no_room_for(size)

    def no_room_for(self, count: int) -> str:
        """Return why so many more bytes of values cannot be kept, empty if they can."""
        return "" if self._budget is None else self._budget.refusal(self._owner, self.bytes, count)

    def _count_bytes(self, count: int) -> None:
        self.bytes += count
        if self._budget is not None:
            self._budget.add(self._owner, count)
