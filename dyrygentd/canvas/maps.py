"""What `Workflow.map` is given, as the form in which a map is kept: what is done with each item, and the list.

The form is that of a definition document, so what is wrong is told in the same words. It is imported when a map is built: most
workflows have none, and workers that build canvases need nothing of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from dyrygentd.canvas.draft import Draft
from dyrygentd.canvas.importer import Importer
from dyrygentd.canvas.values import encode_value
from dyrygentd.canvas.visits import NOTHING, Visit, checked_kind, not_a_canvas
from dyrygentd.core.graph import Definition
from dyrygentd.core.ids import MadeIds
from dyrygentd.core.options import shown
from dyrygentd.core.policy import PLAIN_WORKFLOW, Child
from dyrygentd.errors import BadNode, BadRequest, DefinitionError, EmptyWorkflow

#: Fields of a map that are not sent if they say nothing.
_NOTHING_SAID: Final = {"key": None, "batch": 0, "spread": False, "pool": "", "min_success": None}


def is_list(over: object) -> bool:
    """Tell whether what a map is over is a list that is there."""
    return isinstance(over, Sequence) and not isinstance(over, str | bytes | bytearray)


class ListSource(NamedTuple):
    """Where the list of a map comes from.

    Attributes:
        over: The number of a node, the list itself, or None for what precedes.
        is_node: Whether it is a node.
        after: The numbers of all that the map waits for.
    """

    over: Any
    is_node: bool
    after: Sequence[int]


def map_child(name: str, draft: Draft, do: tuple[Draft, int | None], source: ListSource, fields: Mapping[str, Any]) -> Child:
    """Return a map as it is kept with its node.

    Args:
        name: What the node is called in errors.
        draft: To which the node is to be added.
        do: What is done with each item, and the node of it whose value is the item's; None for its only end.

    Raises:
        BadNode: With the field and what is allowed.
    """
    from dyrygentd import wire

    document = {field: value for field, value in fields.items() if field not in _NOTHING_SAID or value != _NOTHING_SAID[field]}
    if source.is_node:
        if len(source.after) > 1:
            # The name is what tells it from the others, so it must not change any more.
            document["over"] = draft.name_of(source.over)
            draft.give_name(source.over, document["over"])
    elif source.over is not None and not is_list(source.over):
        raise BadNode(name, f"`over` is {shown(source.over)}", next_step="give a node of this workflow, or a list")
    elif source.over is not None:
        document["over"] = list(source.over)
    elif not source.after:
        raise BadNode(name, "it is a map and has no list", next_step="give a list as `over`, or the node whose value is one")
    definition = _definition_of(name, *do)
    try:
        return wire.map_of_definition(name, definition, encode_value(document))
    except BadRequest as error:
        raise BadNode(name, error.message, next_step=error.next_step) from None


def draft_of_canvas(canvas: object) -> tuple[Draft, int]:
    """Return the nodes of a canvas that is done with each item, and the one that has its value. Raises `NotACanvas`."""
    draft = Draft()
    if checked_kind(Visit(canvas, (), NOTHING, "what is done with each item")):
        value = Importer(draft).read(canvas, ())
        if value is None:
            raise not_a_canvas("the canvas has no tasks", "put at least one task into it")
        return draft, draft.one_node(value)
    return draft, Importer(draft).add_task(Visit(canvas, (), NOTHING, "what is done with each item"), name=None)


def refuse_result(name: str, result: object) -> None:
    """Raise `BadNode`: a function that adds what is done has returned something else than one of its nodes."""
    raise BadNode(
        name,
        f"the function that says what is done with each item returned {shown(result)}",
        next_step="return the node whose value is the item's, or nothing",
    )


def _definition_of(name: str, do: Draft, output: int | None) -> Definition:
    if do.told_of:
        raise BadNode(
            name,
            "an error callback of a chord's body is told the id of its task, and there is one for each item",
            next_step="leave `link_error` out, or let a node with the rule `any_failed` do it",
        )
    if do.chosen_ids:
        raise BadNode(name, "a signature has a `task_id`, and there is one for each item", next_step="leave it out")
    do.is_given = True
    try:
        return do.definition(name="each", labels={}, key=None, output=output, new_id=MadeIds(), policy=PLAIN_WORKFLOW)
    except EmptyWorkflow:
        raise BadNode(name, "nothing is done with an item", next_step="add at least one task") from None
    except DefinitionError as error:
        raise BadNode(name, f"what is done with each item: {error.message}", next_step=error.next_step) from None
