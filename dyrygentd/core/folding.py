"""Folds a graph into a few hundred boxes, whatever its size: for people, who look at structure and open what they want to see.

*Theory of operation.* A box holds nodes, and is opened into boxes, down to single nodes; each node is in one box of each fold.
Nodes are put together by the first of these that tells them apart into few enough boxes:

1. the next part of their section, and if there are too many, ranges of sections;
2. equal task on one level, and equal neighbours;
3. equal task on one level;
4. ranges of levels;
5. pages, in the order of the definition.

A level is the longest way to a node, so each edge goes to a higher one, and no two boxes of 2 to 5 depend on each other. Sections
are given by people, who may put the first and the last step into one: what depends on itself through another box is cut where the
way leaves it, into "1 of 2" and "2 of 2". Where that makes too many, levels go before sections.

A box keeps its nodes next to each other in one array, so that their states are counted at the speed of memory. All of this
depends on the graph alone: it is done once, and paths stay what they are. It is meant to run in a thread beside the loop, which
gets the interpreter between two of its steps; so what is long is a loop here and not one call, such as a sort of all nodes.
"""

from array import array
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, TypeVar

from dyrygentd.core.fold_edges import Edge, edges_between, phases_in, reduced
from dyrygentd.core.graph import Graph
from dyrygentd.core.section_ends import NO_SCOPE
from dyrygentd.core.sections import RESERVED, SEPARATOR, inside

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class FoldBounds:
    """How many boxes of a kind there are in a fold.

    Attributes:
        nodes: So many are shown one by one, as on a screen.
        sections: Sections or ranges of them.
        groups: Nodes of one task and level.
        levels: Ranges of levels; twice as many where levels differ much.
        pages: Ranges of nodes.
        boxes: In all.
        edges: Between boxes.
    """

    nodes: int = 40
    sections: int = 100
    groups: int = 60
    levels: int = 40
    pages: int = 100
    boxes: int = 300
    edges: int = 600


BOUNDS: Final = FoldBounds()
#: Folds of one graph that are kept: the way down to what somebody looks at, for a few people.
_KEPT_MAX: Final = 12
#: Nodes that one call goes over, which takes a millisecond or two.
_AT_ONCE: Final = 50_000


class BoxKind(StrEnum):
    """What the nodes of a box have in common."""

    NODE = "node"
    SECTION = "section"
    SECTIONS = "sections"
    GROUP = "group"
    LEVELS = "levels"
    PAGE = "page"


class Box(NamedTuple):
    """Some nodes; in the fold's ``order`` they stand from ``start`` to ``end``.

    Attributes:
        key: Its part of the path by which it is opened.
        title: What a person calls it.
        task: Name of the task of all its nodes, empty if they have none in common.
        counted: Where those begin that are no steps for a person, which are joins.
        depth: How many parts of their sections its nodes have in common.
        levels: The lowest and the highest level of its nodes, from 1.
        are_alike: Nothing in the graph tells its nodes apart.
    """

    kind: BoxKind
    key: str
    title: str
    task: str
    start: int
    counted: int
    end: int
    depth: int
    levels: tuple[int, int]
    are_alike: bool


class Fold(NamedTuple):
    """What is seen when a box, or the whole, is opened.

    Attributes:
        order: The nodes, box by box; in each box joins last, and both in the order of the definition.
        edges: Which boxes have to wait for which, without what follows from others.
        edges_left_out: How many there are beyond the bound.
    """

    boxes: Sequence[Box]
    order: "array[int]"
    edges: Sequence[Edge]
    edges_left_out: int


class _Label(NamedTuple):
    """What is to become a box; ``part`` is that of the section."""

    kind: BoxKind
    part: str = ""
    title: str = ""
    depth: int = 0
    are_alike: bool = False


class _Sorted:
    """Nodes under labels. Guards: each is given one label."""

    def __init__(self, nodes: int) -> None:
        self.labels: list[_Label] = []
        self.of = array("h", [-1]) * nodes

    def add(self, label: _Label, nodes: Sequence[int] = ()) -> None:
        """Put nodes into a box of their own."""
        number = len(self.labels)
        self.labels.append(label)
        for node in nodes:
            self.of[node] = number


class Folding:
    """The folds of one graph, of which it keeps the last ones.

    Guards: a fold has ``bounds.boxes`` boxes at most, which do not wait for each other in a circle.
    """

    def __init__(self, graph: Graph, bounds: FoldBounds = BOUNDS) -> None:
        self.graph = graph
        self._bounds = bounds
        self._levels = _levels_of(graph)
        self._kept: OrderedDict[str, Fold] = OrderedDict()
        words: dict[tuple[bool, str], int] = {}
        self._words = array("I", bytes(4 * len(graph)))
        for node, signature in enumerate(graph.signatures):
            word = (False, _kind_of(graph, node)) if signature is None else (True, signature.task)
            self._words[node] = words.setdefault(word, len(words))
        self._words_max = len(words)

    def __repr__(self) -> str:
        return f"<Folding nodes={len(self.graph)}>"

    def at(self, path: str) -> Fold | None:
        """Return the fold of a box, of the whole graph if the path is empty; None if there is none."""
        at, fold = "", self._kept.get("") or self._fold(_all_of(self.graph), 0)
        self._keep(at, fold)
        for key in path.split(SEPARATOR) if path else ():
            at = inside(at, key)
            # No box has an empty key, and the path with one would be that of the box around.
            opened = (self._kept.get(at) or self._opened(fold, key)) if key else None
            if opened is None:
                return None
            fold = opened
            self._keep(at, fold)
        return fold

    def nodes_in(self, path: str) -> "array[int] | None":
        """Return the nodes of a box, which may be a single one, in the order of the definition; None if there is no such box."""
        if not path:
            return _all_of(self.graph)
        around, _, key = path.rpartition(SEPARATOR)
        # Nothing stands in a box without a name, as it would for a path that begins with a separator.
        fold = self.at(around) if inside(around, key) == path else None
        box = None if fold is None else _box_of(fold, key)
        return None if fold is None or box is None else _nodes_of(fold, box)

    def _keep(self, path: str, fold: Fold) -> None:
        self._kept[path] = fold
        self._kept.move_to_end(path)
        while len(self._kept) > _KEPT_MAX:
            self._kept.popitem(last=False)

    def _opened(self, fold: Fold, key: str) -> Fold | None:
        box = _box_of(fold, key)
        # A node is shown and not opened: its box would be opened into itself, again and again.
        if box is None or box.kind is BoxKind.NODE:
            return None
        return self._fold(_nodes_of(fold, box), box.depth, box.are_alike)

    # --- boxes ------------------------------------------------------------------------------------------------------

    def _fold(self, nodes: "array[int]", depth: int, are_alike: bool = False) -> Fold:
        """Fold nodes, which are in the order of the definition and have ``depth`` parts of their sections in common."""
        found = _Sorted(len(self.graph))
        rest = self._sort_by_section(found, nodes, depth)
        self._sort_rest(found, rest, depth, are_alike)
        edges = edges_between(self.graph, nodes, found.of)
        phases = phases_in(self.graph, self._levels, nodes, found.of, edges, len(found.labels)) if found.labels[0].part else {}
        if phases:
            found = self._cut(found, nodes, phases, depth)
            edges = edges_between(self.graph, nodes, found.of)
        boxes, order = self._boxes(found, nodes)
        shown = reduced(edges, len(boxes))
        return Fold(boxes, order, shown[: self._bounds.edges], max(0, len(shown) - self._bounds.edges))

    def _sort_by_section(self, found: _Sorted, nodes: "array[int]", depth: int) -> "array[int]":
        """Sort what has a further part of its section; return the others."""
        sections = self.graph.sections
        if not sections:
            return nodes
        parts = [_part_of(path, depth) for path in sections.paths]
        found_in: dict[str, array[int]] = {}
        rest = array("I")
        for node in nodes:
            part = parts[sections.number(node)]
            if part:
                found_in.setdefault(part, array("I")).append(node)
            else:
                rest.append(node)
        if len(found_in) <= self._bounds.sections:
            for part, members in found_in.items():
                found.add(_Label(BoxKind.SECTION, part, part, depth + 1), members)
            return rest
        # By where they begin, so that sections that follow each other are in ranges that do.
        begin = {part: min(self._levels[node] for node in members) for part, members in found_in.items()}
        for some in _ranges(sorted(found_in, key=begin.__getitem__), self._bounds.sections, 1):
            title = f"{some[0]} … {some[-1]}" if len(some) > 1 else some[0]
            found.add(_Label(BoxKind.SECTIONS, some[0], title, depth), [node for part in some for node in found_in[part]])
        return rest

    def _sort_rest(self, found: _Sorted, nodes: "array[int]", depth: int, are_alike: bool) -> None:
        """Sort nodes by what can be seen of them in the graph."""
        if len(nodes) <= self._bounds.nodes:
            for node in nodes:
                found.add(_Label(BoxKind.NODE, depth=depth), [node])
            return
        groups = {} if are_alike else self._groups(nodes, self._neighbourhood)
        are_alike = len(groups) < 2
        is_fine = len(groups) <= self._bounds.groups
        if not is_fine:
            groups = self._groups(nodes, self._shape)
        if 1 < len(groups) <= self._bounds.groups:
            for group in groups.values():
                found.add(_Label(BoxKind.GROUP, depth=depth, are_alike=is_fine), group)
            return
        if not are_alike and any(self._levels[node] != self._levels[nodes[0]] for node in nodes):
            self._sort_by_level(found, nodes, depth)
            return
        for page in _ranges(nodes, self._bounds.pages, self._bounds.nodes):
            found.add(_Label(BoxKind.PAGE, depth=depth, are_alike=are_alike), page)

    def _groups(self, nodes: "array[int]", shape: Callable[[int], Hashable]) -> dict[Hashable, "array[int]"]:
        """Return nodes by their shape; not all of them, if there are too many shapes."""
        groups: dict[Hashable, array[int]] = {}
        for node in nodes:
            key = shape(node)
            group = groups.get(key)
            if group is None:
                if len(groups) > self._bounds.groups:
                    break
                group = groups[key] = array("I")
            group.append(node)
        return groups

    def _neighbourhood(self, node: int) -> Hashable:
        """Return what a node is, after what it comes and what comes after it."""
        return self._shape(node), self._shapes(self.graph.dependencies(node)), self._shapes(self.graph.dependents(node))

    def _shape(self, node: int) -> int:
        """Return a number for the level of a node and for what it runs."""
        return self._levels[node] * self._words_max + self._words[node]

    def _shapes(self, nodes: "array[int]") -> Hashable:
        if len(nodes) < 2:
            return self._shape(nodes[0]) if nodes else -1
        return frozenset([self._shape(node) for node in nodes])

    def _sort_by_level(self, found: _Sorted, nodes: "array[int]", depth: int) -> None:
        """Sort nodes into ranges of levels, with about as many nodes in each."""
        low = min(self._levels[node] for node in nodes)
        counts = array("I", bytes(4 * (max(self._levels[node] for node in nodes) - low + 1)))
        for node in nodes:
            counts[self._levels[node] - low] += 1
        least, in_range = -(-len(nodes) // self._bounds.levels), 0
        label_of = array("h", bytes(2 * len(counts)))
        for level, count in enumerate(counts):
            # Two levels at least are kept apart, or a box would be opened into itself.
            if count and (not in_range or in_range + count > least):
                found.add(_Label(BoxKind.LEVELS, depth=depth))
                in_range = 0
            label_of[level] = len(found.labels) - 1
            in_range += count
        for node in nodes:
            found.of[node] = label_of[self._levels[node] - low]

    def _cut(self, found: _Sorted, nodes: "array[int]", phases: dict[int, int], depth: int) -> _Sorted:
        """Cut boxes that wait for each other into phases, or sort by level if that makes too many."""
        pieces: dict[tuple[int, int], array[int]] = {}
        for node in nodes:
            pieces.setdefault((found.of[node], phases.get(node, 0)), array("I")).append(node)
        cut = _Sorted(len(self.graph))
        if len(pieces) > self._bounds.boxes:
            self._sort_by_level(cut, nodes, depth)
            return cut
        of_label: dict[int, int] = {}
        for number, _ in pieces:
            of_label[number] = of_label.get(number, 0) + 1
        seen: dict[int, int] = {}
        for number, phase in sorted(pieces):
            label = found.labels[number]
            if of_label[number] > 1:
                seen[number] = seen.get(number, 0) + 1
                # Opened by its number, as its name is that of all the pieces.
                which = f"{seen[number]} of {of_label[number]}"
                label = label._replace(part="", title=label.title and f"{label.title} ({which})")
            cut.add(label, pieces[number, phase])
        return cut

    # --- what they are called ---------------------------------------------------------------------------------------

    def _boxes(self, found: _Sorted, nodes: "array[int]") -> "tuple[list[Box], array[int]]":
        steps: list[array[int]] = [array("I") for _ in found.labels]
        joins: list[array[int]] = [array("I") for _ in found.labels]
        for node in nodes:
            (joins if self.graph.is_join(node) else steps)[found.of[node]].append(node)
        order, boxes = array("I"), []
        for number, label in enumerate(found.labels):
            start = len(order)
            order += steps[number]
            counted = len(order)
            order += joins[number]
            boxes.append(self._box(label, number, order, (start, counted, len(order))))
        return boxes, order

    def _box(self, label: _Label, number: int, order: "array[int]", places: tuple[int, int, int]) -> Box:
        names, (start, counted, end) = self.graph.names, places
        low = high = self._levels[order[start]]
        word: int | None = self._words[order[start]]
        for place in range(start, end):
            level = self._levels[order[place]]
            low, high = min(low, level), max(high, level)
            if self._words[order[place]] != word:
                word = None
        signature = self.graph.signatures[order[start]]
        task = signature.task if word is not None and signature is not None else ""
        is_node = end - start == 1 and label.kind in (BoxKind.GROUP, BoxKind.PAGE, BoxKind.LEVELS, BoxKind.NODE)
        kind, title = BoxKind.NODE if is_node else label.kind, label.title
        if is_node:
            title = names[order[start]]
        elif kind is BoxKind.LEVELS:
            title = f"levels {low} to {high}" if low < high else f"level {low}"
        elif kind is BoxKind.PAGE:
            title = f"{names[order[start]]} … {names[order[end - 1]]}"
        elif kind is BoxKind.GROUP:
            title = task or _kind_of(self.graph, order[start])
        key = label.part if kind is BoxKind.SECTION and label.part else f"{RESERVED}{number + 1}"
        return Box(kind, key, title, task, start, counted, end, label.depth, (low, high), label.are_alike)


def _all_of(graph: Graph) -> "array[int]":
    nodes = array("I")
    for start in range(0, len(graph), _AT_ONCE):
        nodes.extend(range(start, min(start + _AT_ONCE, len(graph))))
    return nodes


def _levels_of(graph: Graph) -> "array[int]":
    """Return the number of nodes on the longest way to each, itself included; each edge goes to a higher one."""
    levels, ends = array("I", bytes(4 * len(graph))), graph.section_ends
    highest = [] if ends is None else [0] * len(ends.paths)
    for node in graph.topological_order():
        level = 0 if ends is None or node not in ends.ended_by else highest[ends.ended_by[node]]
        for dependency in graph.dependencies(node):
            if levels[dependency] > level:
                level = levels[dependency]
        levels[node] = level + 1
        if ends is not None and ends.scope_of[node] != NO_SCOPE:
            highest[ends.scope_of[node]] = max(highest[ends.scope_of[node]], levels[node])
    return levels


def _kind_of(graph: Graph, node: int) -> str:
    policy = graph.policy(node)
    if policy.child is not None:
        return "workflow"
    return "gate" if policy.is_gate else "sleep" if policy.sleep_s else "task" if graph.is_task(node) else "join"


def _part_of(path: str, depth: int) -> str:
    parts = path.split(SEPARATOR)
    return parts[depth] if depth < len(parts) else ""


def _ranges(what: Sequence[_T], most: int, least: int) -> Iterator[Sequence[_T]]:
    """Cut into ``most`` ranges at most, each with at least so many but the last."""
    size = max(least, -(-len(what) // most))
    for start in range(0, len(what), size):
        yield what[start : start + size]


def _box_of(fold: Fold, key: str) -> Box | None:
    return next((box for box in fold.boxes if box.key == key), None)


def _nodes_of(fold: Fold, box: Box) -> "array[int]":
    """Return the nodes of a box in the order of the definition."""
    return _merged(fold.order[box.start : box.counted], fold.order[box.counted : box.end])


def _merged(some: "array[int]", others: "array[int]") -> "array[int]":
    """Merge two rising arrays."""
    if not others or not some:
        return some or others
    merged, place = array("I"), 0
    for node in some:
        while place < len(others) and others[place] < node:
            merged.append(others[place])
            place += 1
        merged.append(node)
    return merged + others[place:]
