"""What changes of a folded workflow, for those who follow it: the boxes that are others than before, under rising numbers.

A box is sent whole, so whoever has missed some changes is brought up by the last ones, and nobody has to be given each of them.
"""

from msgspec import Struct
from msgspec.structs import replace

from dyrygentd.wire.folds import BoxView, FoldView
from dyrygentd.wire.plain import View


class ChangedBox(Struct, View):
    """A box as it is now.

    Attributes:
        place: Where it stands among the boxes of the fold, from 0.
    """

    place: int
    box: BoxView


class FoldChanges(Struct, View):
    """What has changed of a folded workflow since what its reader was sent before.

    Attributes:
        seq: Rises from one to the next, not always by one.
        state: Of the workflow.
        boxes: Those that are others than before; there may be none, if the workflow's state is.
    """

    seq: int
    state: str
    boxes: list[ChangedBox]


class FoldHistory:
    """A fold as it stands, and which of its boxes are as new as which number.

    Guards: whoever has been given a number, and is given what has changed since, has what is there now.

    Attributes:
        view: As it stands; its ``seq`` is the number.
    """

    def __init__(self, view: FoldView) -> None:
        self._whole_at = 1
        self._at = [1] * len(view.boxes)
        self.view = replace(view, seq=1)

    def __repr__(self) -> str:
        return f"<FoldHistory seq={self.view.seq} path='{self.view.path}' boxes={len(self._at)}>"

    def take(self, view: FoldView) -> None:
        """Take the fold as it stands now; if nothing has changed, the number does not."""
        old, seq = self.view, self.view.seq + 1
        if _shape_of(view) != _shape_of(old):
            self._whole_at, self._at = seq, [seq] * len(view.boxes)
        else:
            changed = [place for place, box in enumerate(view.boxes) if box != old.boxes[place]]
            if not changed and view.state == old.state:
                return
            for place in changed:
                self._at[place] = seq
        self.view = replace(view, seq=seq)

    def since(self, seq: int) -> FoldView | FoldChanges:
        """Return what somebody needs who has what had this number; the whole fold if they have none of it, which is 0."""
        if seq < self._whole_at:
            return self.view
        boxes = self.view.boxes
        changed = [ChangedBox(place, boxes[place]) for place, at in enumerate(self._at) if at > seq]
        return FoldChanges(self.view.seq, self.view.state, changed)


def with_changes(view: FoldView, changes: FoldChanges) -> FoldView:
    """Return a fold as it stands after these changes; the one before stays as it is."""
    boxes = [*view.boxes]
    for changed in changes.boxes:
        boxes[changed.place] = changed.box
    return replace(view, seq=changes.seq, state=changes.state, boxes=boxes)


def _shape_of(view: FoldView) -> tuple[object, ...]:
    """Return what changes of boxes cannot bring."""
    return view.name, view.nodes, view.edges, view.edges_left_out, [box.path for box in view.boxes]
