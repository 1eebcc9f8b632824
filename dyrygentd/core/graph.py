"""The immutable shape of a workflow: nodes, dependencies, and what is derived from them once.

Nodes are numbered 0 to n-1 in the order in which they were given. Edges are kept in two flat arrays (compressed
sparse rows), so a graph costs a few dozen bytes a node beside its names and signatures, and finishing a node touches its
dependents and nobody else.

A *join* is a node without a task: it succeeds by itself as soon as its dependencies have, and its value is the list of
theirs, in the order in which they are named. Through a join ``group(n) | group(m)`` has n+m edges instead of n*m. A *gate* and
a *sleep* have no task either; they are steps that a person sees, and hand on what precedes them. A *child* is a workflow of its
own that does the work of a node, which then has its result. A *hook* depends on all ends of the graph, and waits for the rest as
well. What runs at the end of a section waits for the rest of that, without edges: `dyrygentd.core.section_ends`.

Which value a node is given follows Celery's chain and chord: an immutable signature gets none; a mutable one gets the value
of its dependency, or, when it names several, the list of their values; a join takes the values of all it names.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from dyrygentd.core.choices import NO_CHOICES, Choices, Choosing
from dyrygentd.core.conditions import When
from dyrygentd.core.edges import cycle_among, heights_along, reversed_edges, value_uses_along
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.parent_task import ParentTask
from dyrygentd.core.policy import PLAIN, PLAIN_WORKFLOW, NodePolicy, WorkflowPolicy
from dyrygentd.core.section_ends import SectionEnds
from dyrygentd.core.sections import Sections
from dyrygentd.core.series import Series
from dyrygentd.core.spec_checks import ends_of, first_repeated, refuse_contradictions, refuse_duplicate_task_ids
from dyrygentd.core.states import NodeState
from dyrygentd.errors import (
    CycleError,
    DuplicateNode,
    EmptyWorkflow,
    TooManyNodes,
    UnknownDependency,
)

#: Heights and node numbers share one integer in the ready heap; 32 bits for the number leave this bound far away.
NODES_MAX: Final = 10_000_000


class Graph:
    """A validated, immutable graph.

    Guards: names and task ids are unique, dependencies exist, there is no cycle.

    Attributes:
        names: Name of each node.
        signatures: Signature of each node, None for joins, gates and sleeps.
        task_ids: Task id of the first attempt of each node, empty for what has no task.
        policies: ``{node: policy}`` of the nodes that have one of their own.
        sections: What nodes belong to, for a person.
        choices: The conditions under which nodes run.
        hooks: The nodes that are hooks.
        section_ends: What waits for the ends of sections, None if nothing does.
        heights: Number of tasks on the longest path from a node to an end, itself included; the critical path comes first.
        value_uses: How many take the value of a node: dependents that get it, and one more for the output.
        feeds_tasks: For each node 1 if a task gets its value, directly or through joins; otherwise it is for the output at most.
        output: The node whose value is the workflow's result, if there is one.
        task_count: Number of nodes that are no joins.
        item_nodes: Of a map that was made of a list, how many nodes each item has: they come first, item by item. 0 for others.
    """

    __slots__ = (
        "_dependencies",
        "_dependencies_start",
        "_dependents",
        "_dependents_start",
        "_numbers",
        "choices",
        "feeds_tasks",
        "heights",
        "hooks",
        "item_nodes",
        "names",
        "output",
        "policies",
        "section_ends",
        "sections",
        "signatures",
        "task_count",
        "task_ids",
        "value_uses",
    )

    def __init__(
        self,
        *,
        names: Sequence[str],
        signatures: Sequence[Signature | None],
        task_ids: Sequence[str],
        dependencies_start: "array[int]",
        dependencies: "array[int]",
        output: int | None,
        policies: Mapping[int, NodePolicy],
        sections: Sections,
        item_nodes: int = 0,
        choices: Choices = NO_CHOICES,
    ) -> None:
        self.names = names
        self.signatures = signatures
        self.task_ids = task_ids
        self.policies = policies
        self.sections = sections
        self.item_nodes = item_nodes
        self.choices = choices
        self.hooks = [node for node, policy in policies.items() if policy.hook is not None]
        has_ends = any(policy.section_end is not None for policy in policies.values())
        self.section_ends = SectionEnds(names, sections, policies) if has_ends else None
        self.task_count = sum([signature is not None for signature in signatures])
        self.task_count += sum(policy.is_taskless_step for policy in policies.values())
        self._dependencies_start = dependencies_start
        self._dependencies = dependencies
        self._dependents_start, self._dependents = reversed_edges(len(names), dependencies_start, dependencies)
        self._numbers: dict[str, int] | None = None
        order = self.topological_order()
        self.output = output if output is not None else self._only_end()
        self.heights = heights_along(self, order, self._dependents_start, self._dependents)
        self.value_uses, self.feeds_tasks = value_uses_along(self, order)

    @classmethod
    def build(
        cls,
        specs: Iterable[NodeSpec],
        *,
        output: str | None = None,
        nodes_max: int = NODES_MAX,
        whens: Mapping[str, When] | None = None,
        item_nodes: int = 0,
    ) -> "Graph":
        """Build and validate a graph.

        Args:
            specs: The nodes. A name that ``after`` repeats counts once.
            output: Name of the node whose value is the result; by default the only node without dependents, if one only.
            nodes_max: Largest number of nodes accepted.
            item_nodes: Of a map, how many nodes each item has.
            whens: ``{path of a section: condition under which its nodes run}``.

        Raises:
            EmptyWorkflow, TooManyNodes, DuplicateNode, DuplicateTaskId, UnknownDependency, CycleError
        """
        nodes = list(specs)
        if not nodes:
            raise EmptyWorkflow
        if len(nodes) > nodes_max:
            raise TooManyNodes(len(nodes), nodes_max)
        names = [node.name for node in nodes]
        numbers = dict(zip(names, range(len(names)), strict=True))
        if len(numbers) < len(names):
            raise DuplicateNode(first_repeated(names))
        refuse_duplicate_task_ids(nodes)
        policies = {number: node.policy for number, node in enumerate(nodes) if node.policy is not PLAIN}
        choosing = Choosing(nodes, whens or {}) if whens or policies else None
        start, edges = _edges_of(nodes, numbers, policies, choosing)
        if output is not None and output not in numbers:
            raise UnknownDependency("output", output)
        return cls(
            names=names,
            signatures=[node.signature for node in nodes],
            task_ids=[node.task_id for node in nodes],
            dependencies_start=start,
            dependencies=edges,
            output=None if output is None else numbers[output],
            policies=policies,
            sections=Sections([node.section for node in nodes]),
            item_nodes=item_nodes,
            choices=NO_CHOICES if choosing is None else choosing.choices(),
        )

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"<Graph nodes={len(self)} tasks={self.task_count} edges={self.edge_count}>"

    @property
    def edge_count(self) -> int:
        """Number of dependencies over all nodes."""
        return len(self._dependencies)

    def dependencies(self, node: int) -> "array[int]":
        """Return the numbers of what ``node`` waits for, in the order in which they were named."""
        return self._dependencies[self._dependencies_start[node] : self._dependencies_start[node + 1]]

    def inputs(self, node: int) -> "array[int]":
        """Return the numbers of what ``node`` is after, without what only decides whether it runs."""
        only_deciding = self.choices.only_deciding
        return self.dependencies(node)[len(only_deciding.get(node, ())) :] if only_deciding else self.dependencies(node)

    def input_count(self, node: int) -> int:
        """Return how many nodes ``node`` is after."""
        only_deciding = self.choices.only_deciding
        return self.dependency_count(node) - (len(only_deciding.get(node, ())) if only_deciding else 0)

    def wanted(self, node: int) -> Sequence[int]:
        """Return the dependencies whose values ``node`` takes, or is decided by."""
        if self.takes_input(node):
            return self.dependencies(node)
        return self.choices.deciders.get(node, ())

    def wants(self, node: int, dependency: int) -> bool:
        """Tell whether ``node`` takes the value of this one of its dependencies, or is decided by it."""
        return self.takes_input(node) or (bool(self.choices.deciders) and dependency in self.choices.deciders.get(node, ()))

    def dependency_count(self, node: int) -> int:
        """Return how many nodes ``node`` waits for."""
        return self._dependencies_start[node + 1] - self._dependencies_start[node]

    def last_dependency(self, node: int) -> int | None:
        """Return the last of what ``node`` waits for, without a copy of all of them."""
        return self._dependencies[self._dependencies_start[node + 1] - 1] if self.dependency_count(node) else None

    def dependents(self, node: int) -> "array[int]":
        """Return the numbers of the nodes that wait for ``node``, in ascending order."""
        return self._dependents[self._dependents_start[node] : self._dependents_start[node + 1]]

    def first_dependents(self, node: int, most: int) -> "array[int]":
        """Return the first of the nodes that wait for ``node``, however many there are."""
        start = self._dependents_start[node]
        return self._dependents[start : min(start + most, self._dependents_start[node + 1])]

    def waited_for(self, node: int) -> Iterator[int]:
        """Iterate over what a node waits for: its dependencies, and at the end of a section all the rest of that."""
        yield from self.dependencies(node)
        if self.section_ends is not None and node in self.section_ends.ended_by:
            yield from self.section_ends.nodes_in(self.section_ends.ended_by[node])

    def following(self) -> Callable[[int], Sequence[int]]:
        """Return what tells who waits for a node, for one way through the graph: what ends a section it tells once."""
        ends, told = self.section_ends, set[int]()

        def after(node: int) -> Sequence[int]:
            if ends is None or ends.scope_of[node] in told:
                return self.dependents(node)
            told.add(ends.scope_of[node])
            return [*self.dependents(node), *ends.following(node)]

        return after

    def policy(self, node: int) -> NodePolicy:
        """Return what ``node`` asks for."""
        return self.policies.get(node, PLAIN)

    def is_task(self, node: int) -> bool:
        """Tell whether ``node`` has a task."""
        return self.signatures[node] is not None

    def is_join(self, node: int) -> bool:
        """Tell whether ``node`` is a join: no task, and nothing that a person would count."""
        return self.signatures[node] is None and not (self.policies and self.policy(node).is_taskless_step)

    def is_child(self, node: int) -> bool:
        """Tell whether ``node`` is done by a workflow of its own."""
        return bool(self.policies) and self.signatures[node] is None and self.policy(node).child is not None

    def is_chained(self, node: int) -> bool:
        """Tell whether something waits for this node alone, as what follows in a chain does, and a chord's body does not."""
        return any(self.input_count(dependent) == 1 for dependent in self.dependents(node))

    def takes_input(self, node: int) -> bool:
        """Tell whether ``node`` needs the values of its dependencies."""
        signature = self.signatures[node]
        if signature is None:
            child = self.policy(node).child if self.policies else None
            return self.value_uses[node] > 0 if child is None else child.takes_input
        return not (signature.immutable or (self.policies and self.policy(node).is_told_the_end))

    def number(self, name: str) -> int | None:
        """Return the number of the node with this name. The first call builds an index."""
        if self._numbers is None:
            self._numbers = {name: number for number, name in enumerate(self.names)}
        return self._numbers.get(name)

    def ranks(self) -> "array[int]":
        """Return for each node how early its turn comes among those that are ready: the higher, the earlier.

        The longest way to go comes first. In a map the item that began first does, so that each goes all its way before too many
        others have begun.
        """
        if self.item_nodes < 2:
            return self.heights
        most = max(self.heights) + 1
        items = (len(self) - 1) // self.item_nodes
        begins = range(items * most, -1, -most)
        return array("I", [begins[node // self.item_nodes] + height for node, height in enumerate(self.heights)])

    def unmet_counts(self) -> "array[int]":
        """Return, for each node, how many dependencies it has."""
        start = self._dependencies_start
        return array("I", [start[node + 1] - start[node] for node in range(len(self))])

    def topological_order(self) -> "array[int]":
        unmet, start, dependents = self.unmet_counts(), self._dependents_start, self._dependents
        ends = self.section_ends
        left = [] if ends is None else ends.open_counts()
        for node in () if ends is None else ends.ended_by:
            unmet[node] += 1
        order = array("I", [node for node in range(len(self)) if not unmet[node]])
        # What is appended while it goes on comes up in its turn.
        for node in order:
            for place in range(start[node], start[node + 1]):
                dependent = dependents[place]
                unmet[dependent] -= 1
                if not unmet[dependent]:
                    order.append(dependent)
            if ends is not None:
                for scope in ends.closed_by(node, left):
                    for ender in ends.enders[scope]:
                        unmet[ender] -= 1
                        if not unmet[ender]:
                            order.append(ender)
        if len(order) < len(self):
            raise CycleError(cycle_among(self, {node for node in range(len(self)) if unmet[node]}))
        return order

    def _only_end(self) -> int | None:
        if self.hooks:
            # What a hook depends on is an end, and a hook is none.
            hooks = set(self.hooks)
            ends = (node for node in self.dependencies(self.hooks[0]) if node not in hooks)
        else:
            start = self._dependents_start
            ends = (node for node in range(len(self)) if start[node] == start[node + 1])
        if self.section_ends is not None:
            others = self.section_ends.leading_on(self.dependents, self.hooks)
            ends = (node for node in ends if node not in others)
        # There is none if there is nothing but hooks.
        first, second = next(ends, None), next(ends, None)
        return first if second is None else None


@dataclass(frozen=True, slots=True)
class Definition:
    """What is submitted: a graph and what it is called.

    Attributes:
        key: A second submission with the same key is answered with the first one's workflow.
        payload: Free JSON text of the user.
        adopted: ``{node: state}`` of what was done, or sent, before this workflow was submitted.
        chosen: The nodes whose task ids whoever submits it brings along; None if nobody can tell.
        is_fresh: All other task ids were made for this submission, by `dyrygentd.core.ids.MadeIds`.
        parent_task: The task in which it is submitted.
        inner: ``{node: what it begins as a workflow of its own}``, as far as that is known before; of equal ones the first.
        series: Of which runs it is one, and what it does while another one goes on.
        source: What it was read from; it is out of date if anything was changed since.
    """

    graph: Graph
    name: str
    key: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    payload: bytes = b"null"
    policy: WorkflowPolicy = PLAIN_WORKFLOW
    adopted: Mapping[int, NodeState] = field(default_factory=dict)
    chosen: frozenset[int] | None = None
    is_fresh: bool = False
    parent_task: ParentTask | None = None
    inner: "Mapping[str, Definition]" = field(default_factory=dict, compare=False, repr=False)
    series: Series | None = None
    source: "Source | None" = field(default=None, compare=False, repr=False)

    def whole(self) -> "Iterator[Definition]":
        """Iterate over this definition and all that are inside, as far as they are known."""
        stack = [self]
        while stack:
            definition = stack.pop()
            stack += definition.inner.values()
            yield definition

    @property
    def nodes_from_outside(self) -> Sequence[int]:
        """Return the nodes whose task ids may be those of other tasks."""
        if self.is_fresh and self.chosen is not None:
            return sorted(self.chosen)
        return [node for node, task_id in enumerate(self.graph.task_ids) if task_id]


class Source(NamedTuple):
    """A document, and the definition that is read from it."""

    document: bytes
    definition: Definition


def _edges_of(
    nodes: Sequence[NodeSpec], numbers: Mapping[str, int], policies: dict[int, NodePolicy], choosing: Choosing | None
) -> "tuple[array[int], array[int]]":
    """Return what each node waits for, as two flat arrays; nodes with a condition are put into the table of policies."""
    ends = ends_of(nodes) if any(policy.hook is not None for policy in policies.values()) else []
    start, edges = array("I", [0]), array("I")
    for number, node in enumerate(nodes):
        after = node.after
        if node.policy is not PLAIN:
            refuse_contradictions(node)
            after = ends if node.policy.hook is not None else after
        try:
            if choosing is not None and number in choosing.provisos:
                # In the table of those that ask for more than the usual rule, which go without a look at anything else.
                policies.setdefault(number, node.policy)
                edges.extend(choosing.edges_of(number, node.name, after, numbers))
            edges.extend([numbers[name] for name in (dict.fromkeys(after) if len(after) > 1 else after)])
        except KeyError as error:
            raise UnknownDependency(node.name, error.args[0]) from None
        start.append(len(edges))
    return start, edges
