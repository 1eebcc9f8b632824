"""Workflows with their children below them: those that are the work of their nodes."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from dyrygentd.cli import render

if TYPE_CHECKING:
    from dyrygentd import wire
    from dyrygentd.client.sync import Client

#: Children that are shown of one workflow, and lines of all trees together: each costs a question.
CHILDREN_MAX: Final = 10
LINES_MAX: Final = 300


class TreeLine(NamedTuple):
    """A workflow in a tree.

    Attributes:
        depth: How many are above it.
        has_more: Whether it has more children than the tree has.
    """

    view: "wire.WorkflowView"
    depth: int = 0
    has_more: bool = False

    @property
    def name(self) -> str:
        """The name as it stands in the tree."""
        name = render.inline(self.view.name)
        return f"{'  ' * (self.depth - 1)}└ {name}" if self.depth else name


def tree_of(client: "Client", views: "Sequence[wire.WorkflowView]", *, most: int = LINES_MAX) -> list[TreeLine]:
    """Return workflows, each with its children below it, as they began, as far as there is room."""
    found: list[TreeLine] = []
    # With an explicit stack; the next one is the last of it.
    stack = [TreeLine(view) for view in reversed(views)]
    while stack:
        branch = stack.pop()
        left = most - len(found) - len(stack) - 1
        page = client.list(parent=branch.view.id, limit=max(0, min(CHILDREN_MAX, left)) + 1)
        shown = page[: max(0, min(CHILDREN_MAX, left))]
        found.append(branch._replace(has_more=len(page) > len(shown)))
        # The newest come first in a page, and are the first to be pushed.
        stack += [TreeLine(view, branch.depth + 1) for view in shown]
    return found


def left_out(tree: Sequence[TreeLine]) -> Iterator[str]:
    """Say where there are more children than were shown."""
    more = [branch.view for branch in tree if branch.has_more]
    for view in more[:3]:
        yield f"'{render.inline(view.name)}' has more children: {render.shell('dyrygentctl', 'list', '--parent', view.id)}"
    if len(more) > 3:
        yield f"and so have {len(more) - 3} others"
