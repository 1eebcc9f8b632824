"""What a task has added to its workflow: work that follows its success, and that what follows the task waits for.

The task's end and what it has added come in one event. The node is held from then on until that has ended, as a workflow of its
own (`dyrygentd.core.children`), and keeps its task's value meanwhile. The definition is kept until that workflow is taken in, and
let go in the same turn. Whether there is an addition decides what a retry does: if there is one, the task has succeeded, and the
retry goes on in that.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from dyrygentd.core.graph import Graph
from dyrygentd.core.policy import Child
from dyrygentd.core.references import as_kept

if TYPE_CHECKING:
    from dyrygentd.core.kept_values import KeptValues


class Adds(StrEnum):
    """How an addition came, and what becomes of its result.

    *Beside* is what a task has spawned: the node keeps its own value. *Behind* is Celery's ``add_to_chord``: the result is a list
    of values, which go behind the node's own wherever that is put into a list. What an *expansion* gives is the node's value.
    """

    BESIDE = "beside"
    BEHIND = "behind"
    EXPANDS = "expands"


#: Kinds of children that tasks have added.
ADDED: Final = frozenset(each.value for each in Adds)


class Addition(NamedTuple):
    """What a task has added.

    Attributes:
        document: The definition as the worker has packed it; of an expansion, what the task has returned. The core looks into
            neither. Empty once it was begun.
    """

    kind: Adds
    document: bytes


class Held(NamedTuple):
    """What a node has whose task has succeeded and added something.

    Attributes:
        value: What the task has returned, None if that has no JSON form, for the reason in ``value_error``.
    """

    addition: Addition
    value: bytes | None
    value_error: str = ""

    @property
    def texts(self) -> Sequence[bytes]:
        """What is kept for it."""
        return self.addition.document, self.value or b""


class Additions:
    """What the tasks of a workflow have added. Guards: the bytes that are kept are counted, until they are let go."""

    __slots__ = ("_by_node", "_graph", "_values")

    def __init__(self, graph: Graph, values: "KeptValues") -> None:
        self._by_node: dict[int, Held] = {}
        self._graph = graph
        self._values = values

    def __len__(self) -> int:
        return len(self._by_node)

    def __contains__(self, node: int) -> bool:
        return node in self._by_node

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_node)

    def __repr__(self) -> str:
        return f"<Additions of {len(self)} nodes>"

    def get(self, node: int) -> Held | None:
        """Return what a node has added."""
        return self._by_node.get(node)

    def keep(self, node: int, held: Held) -> None:
        """Take note of what a node has added."""
        before = self._by_node.get(node)
        self._by_node[node] = held
        for text in held.texts:
            self._values.hold(text)
        # After what is the same: nothing is let go in between that is kept.
        for text in () if before is None else before.texts:
            self._values.let_go(text)

    def drop(self, node: int) -> None:
        """Let it go, if there is anything."""
        held = self._by_node.pop(node, None)
        for text in () if held is None else held.texts:
            self._values.let_go(text)

    def begun(self, node: int) -> None:
        """Let go of the definition, since the workflow is taken in."""
        held = self._by_node.get(node)
        if held is not None:
            self.keep(node, held._replace(addition=held.addition._replace(document=b"")))

    def record(self, node: int) -> tuple[str, str, str | None, str] | tuple[()]:
        """Return what is stored of a node."""
        held = self._by_node.get(node)
        if held is None:
            return ()
        kind, document = held.addition
        return kind.value, document.decode(), None if held.value is None else held.value.decode(), held.value_error

    def read_back(self, node: int, record: tuple[str, str, str | None, str]) -> None:
        """Take what was stored of a node."""
        kind, document, value, value_error = record
        addition = Addition(Adds(kind), as_kept(document.encode()))
        self.keep(node, Held(addition, None if value is None else as_kept(value.encode()), value_error))

    def is_child(self, node: int) -> bool:
        """Tell whether a node is done by a workflow of its own, or goes on with one that its task has added."""
        return self._graph.is_child(node) or node in self._by_node

    def child(self, node: int) -> Child | None:
        """Return the workflow that does the work of a node, or that its task has added."""
        held = self._by_node.get(node)
        return self._graph.policy(node).child if held is None else Child(held.addition.kind.value, held.addition.document)
