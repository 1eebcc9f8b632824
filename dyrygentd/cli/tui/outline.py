"""The folded workflow as rows: which boxes are open, what a filter leaves, and where the next trouble is. No input or output."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dyrygentd.cli.tui import marks

if TYPE_CHECKING:
    from dyrygentd import wire

#: Boxes that are open at one time, and so folds that are asked for; each has at most 300 rows.
OPEN_MAX: Final = 12
_DEPTH_MAX: Final = 40


@dataclass(frozen=True, slots=True)
class Branch:
    """A box in the outline.

    Attributes:
        path: By which it is opened; empty for the whole workflow.
        is_node: It is a single node, whose name is ``title``.
        share: Of the work that is left in the whole workflow, 0 to 1.
        child: Id of the workflow that is the work of a single node, empty if there is none.
        inner, inner_tasks: ``{state: number of its tasks}``, and how many they are.
        child_waits: Whether something in it goes on only when somebody says so.
    """

    path: str
    title: str
    depth: int
    is_open: bool
    is_node: bool
    nodes: int
    states: Mapping[str, int]
    task: str = ""
    failed: str = ""
    error: str = ""
    longest: str = ""
    longest_since: float | None = None
    held: str = ""
    hold: str = ""
    held_until: float | None = None
    share: float | None = None
    child: str = ""
    inner: Mapping[str, int] = field(default_factory=dict)
    inner_tasks: int = 0
    child_waits: bool = False

    @property
    def shown_states(self) -> Mapping[str, int]:
        """What is counted of it: of a node with a workflow of its own, that one's tasks."""
        return self.inner if self.child else self.states

    @property
    def key(self) -> str:
        """What it is found again by."""
        return self.path

    @property
    def waits_for_person(self) -> bool:
        """Whether the first that is held here goes on only when somebody says so."""
        return self.hold in marks.PERSON or self.child_waits

    @property
    def is_trouble(self) -> bool:
        """Whether somebody should look at it."""
        return bool(self.states.get("failed") or self.inner.get("failed")) or self.waits_for_person


@dataclass(frozen=True, slots=True)
class Filter:
    """What is to be seen: boxes with this in a name, and with a node in this state."""

    text: str = ""
    state: str = ""

    def __bool__(self) -> bool:
        return bool(self.text or self.state)

    def fits(self, branch: Branch) -> bool:
        """Tell whether a box is meant itself."""
        names = (branch.title, branch.task, branch.failed, branch.longest, branch.held)
        wanted = self.text.casefold()
        return (not wanted or any(wanted in name.casefold() for name in names)) and (
            not self.state or bool(branch.states.get(self.state) or branch.inner.get(self.state))
        )


class Outline:
    """The folds that are open, and the rows that they make.

    Guards: at most `OPEN_MAX` boxes are open besides the workflow itself.
    """

    def __init__(self) -> None:
        self._folds: dict[str, wire.FoldView] = {}

    def __repr__(self) -> str:
        return f"<Outline {len(self._folds)} folds>"

    @property
    def paths(self) -> list[str]:
        """The paths of what is open, those first that were opened first."""
        return list(self._folds)

    def put(self, fold: "wire.FoldView") -> None:
        """Take a fold of a box that is open from now on; what was opened first is closed if that makes too many."""
        self._folds[fold.path] = fold
        closable = [path for path in self._folds if path and not _is_on_way(path, fold.path)]
        if len(self._folds) > OPEN_MAX + 1 and closable:
            self.close(closable[0])

    def fold(self, path: str) -> "wire.FoldView | None":
        """Return what an open box was when it was last seen."""
        return self._folds.get(path)

    def close(self, path: str) -> None:
        """Close a box and all that is open in it."""
        for each in list(self._inside(path)):
            self._folds.pop(each, None)

    def stale(self, fold: "wire.FoldView") -> list[str]:
        """Return which open boxes directly in a fold have changed since the last fold of that path."""
        before = self._folds.get(fold.path)
        known = {} if before is None else {box.path: box for box in before.boxes}
        return [box.path for box in fold.boxes if box.path in self._folds and known.get(box.path) != box]

    def rows(self, wanted: Filter | None = None) -> list[Branch]:
        """Return the rows from top to bottom; with a filter those that fit, and the boxes they are in."""
        root = self._folds.get("")
        if root is None:
            return []
        rows = [_whole(root), *self._below(root, 1)]
        if not wanted:
            return rows
        kept: list[Branch] = []
        depth_wanted = 0
        for row in reversed(rows):
            is_way = row.depth < depth_wanted
            if is_way or row.depth == 0 or wanted.fits(row):
                kept.append(row)
                depth_wanted = row.depth
        return kept[::-1]

    def _below(self, fold: "wire.FoldView", depth: int) -> Iterator[Branch]:
        for box in fold.boxes:
            inner = self._folds.get(box.path) if box.kind != "node" else None
            yield _branch(box, depth, is_open=inner is not None)
            if inner is not None and depth < _DEPTH_MAX:
                yield from self._below(inner, depth + 1)

    def _inside(self, path: str) -> Iterator[str]:
        yield path
        fold = self._folds.get(path)
        for box in () if fold is None else fold.boxes:
            if box.path in self._folds:
                yield from self._inside(box.path)


def next_trouble(rows: list[Branch], after: str, *, step: int = 1) -> Branch | None:
    """Return the next row below (or above) one that somebody should look at, round the end; the whole workflow is none."""
    places = [number for number, row in enumerate(rows) if row.is_trouble and row.depth]
    if not places:
        return None
    at = next((number for number, row in enumerate(rows) if row.path == after), 0)
    if step > 0:
        return rows[next((place for place in places if place > at), places[0])]
    return rows[next((place for place in reversed(places) if place < at), places[-1])]


def _is_on_way(path: str, to: str) -> bool:
    return to == path or to.startswith(f"{path}/")


def _branch(box: "wire.BoxView", depth: int, *, is_open: bool) -> Branch:
    child = box.child
    return Branch(
        path=box.path,
        title=box.title,
        depth=depth,
        is_open=is_open,
        is_node=box.kind == "node",
        nodes=box.nodes,
        states=box.states,
        task=box.task or "",
        failed=box.failed or "",
        error=box.error or "",
        longest=box.longest or "",
        longest_since=box.longest_since,
        held=box.held or "",
        hold=box.hold or "",
        held_until=box.held_until,
        share=box.share,
        child="" if child is None else child.id,
        inner={} if child is None else child.counts,
        inner_tasks=0 if child is None else child.tasks,
        child_waits=child is not None and child.finished_at is None and bool(child.waits_for_person or child.state == "paused"),
    )


def _whole(fold: "wire.FoldView") -> Branch:
    states: dict[str, int] = {}
    for box in fold.boxes:
        for word, count in box.states.items():
            states[word] = states.get(word, 0) + count
    failed = next((box for box in fold.boxes if box.failed), None)
    held = [box for box in fold.boxes if box.held]
    waits = next((box for box in held if box.hold in marks.PERSON), held[0] if held else None)
    flying = [box for box in fold.boxes if box.longest_since]
    oldest = min(flying, key=lambda box: box.longest_since or 0.0) if flying else None
    return Branch(
        path="",
        title=fold.name,
        depth=0,
        is_open=True,
        is_node=False,
        nodes=fold.nodes,
        states=states,
        failed="" if failed is None else failed.failed or "",
        error="" if failed is None else failed.error or "",
        longest="" if oldest is None else oldest.longest or "",
        longest_since=None if oldest is None else oldest.longest_since,
        held="" if waits is None else waits.held or "",
        hold="" if waits is None else waits.hold or "",
        held_until=None if waits is None else waits.held_until,
    )
