"""What `Workflow.add_workflow` is given, as the form in which a workflow of a node is kept.

It is imported when one is built: most workflows have none, and workers that build canvases need nothing of it.
"""

from collections.abc import Mapping
from typing import Any

from dyrygentd.canvas.values import encode_value
from dyrygentd.core.graph import Definition
from dyrygentd.core.options import shown
from dyrygentd.core.policy import Child, OnClose
from dyrygentd.errors import BadNode, BadRequest


def child_of(
    name: str,
    what: Definition | Mapping[str, Any],
    *,
    is_named: bool,
    values: Mapping[str, Any] | None,
    input_name: str | None,
    on_close: OnClose,
) -> Child:
    """Return a workflow as it is kept with the node whose work it does.

    Args:
        name: What the node is called in errors.
        what: A definition, or its document.
        is_named: Whether somebody gave the definition its name.

    Raises:
        BadNode: With the field and what is allowed.
    """
    from dyrygentd import wire

    document: dict[str, Any] = {"definition": what, "on_close": on_close.value}
    if isinstance(what, Definition):
        document["definition"] = wire.decode_any(wire.encode_definition(what, chosen_ids_only=True), dict[str, Any])
        if not is_named:
            # Then it is called as its node.
            del document["definition"]["name"]
    if values is not None:
        if not isinstance(values, Mapping):
            raise BadNode(name, f"`values` is {shown(values)}", next_step='give {"parameter": value}')
        document["values"] = dict(values)
    if input_name is not None:
        document["input"] = input_name
    try:
        return wire.checked_child(name, encode_value(document))
    except BadRequest as error:
        raise BadNode(name, error.message, next_step=error.next_step) from None
