"""The bodies of requests: what is submitted, as the daemon takes it, and what goes with a verb. No input or output."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from dyrygentd import wire
from dyrygentd.core.parent_task import ParentTask
from dyrygentd.core.series import series_of
from dyrygentd.errors import BadRequest
from dyrygentd.tasks.apply_options import checked_apply_options

if TYPE_CHECKING:
    from dyrygentd.core.graph import Definition

OnOverride = Literal["call", "ignore"]
"""Call an `apply_async` or `send_task` that somebody has overridden, once for each node, or pass it over."""


def submission_body(
    what: Any,
    *,
    key: str | None = None,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    series: str | None = None,
    if_running: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    on_override: OnOverride = "ignore",
    options: Mapping[str, Any] | None = None,
    parent_task: ParentTask | None = None,
) -> bytes:
    """Write the definition of a canvas, `Workflow`, `Definition`, or of a definition document (dict, or JSON as bytes).

    Args:
        parameters: Values of the document's parameters; they go before those in its ``values``.
        on_override: What to do with an `apply_async` or `send_task` that somebody has overridden.
        options: Arguments of `apply_async`, for a canvas.
        parent_task: The task in which it is submitted; one that ``what`` names itself goes before it.
    """
    # Who submits nothing needs no graph.
    from dyrygentd.core.graph import Definition

    checked_apply_options(options or {}, what)
    if on_override not in ("call", "ignore"):
        raise BadRequest(f"`on_override` is {on_override!r}", path="$", next_step="use call or ignore")
    fields = {"key": key, "name": name, "labels": labels and dict(labels), "series": series, "if_running": if_running}
    given: dict[str, Any] = {field: value for field, value in fields.items() if value is not None}
    if isinstance(what, bytes | bytearray) and not given and not parameters and parent_task is None:
        return bytes(what)
    if isinstance(what, bytes | bytearray):
        what = _read(what)
    # A signature is a dict too, so only a plain one is a document.
    if type(what) is dict:
        if on_override == "call":
            _warn_of_overrides(what)
        parent = {} if parent_task is None else {"parent_task": parent_task._asdict()}
        return _document_body(parent | what | given | ({"values": _values(what, parameters)} if parameters else {}))
    if parameters:
        kind = "canvas or `Workflow`" if isinstance(what, Definition) else type(what).__name__
        raise BadRequest(
            f"a {kind} has no parameters",
            path="$.values",
            next_step="put the values into the canvas itself; parameters belong to definition documents",
        )
    if not isinstance(what, Definition):
        from dyrygentd.canvas import definition_of

        what = definition_of(what, options=options, calls_overrides=on_override == "call", **given)
        # The daemon makes the ids that nobody has chosen, and need not ask whether anybody has them.
        return wire.encode_definition(replace(what, parent_task=what.parent_task or parent_task), chosen_ids_only=True)
    if on_override == "call":
        _warn_of_overrides(what)
    given["series"] = series_of(given.pop("series", None), given.pop("if_running", None), present=what.series)
    given["parent_task"] = what.parent_task or parent_task
    return wire.encode_definition(replace(what, **given), chosen_ids_only=what.is_fresh)


def _read(text: bytes | bytearray) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the definition is not valid JSON: {error}", path="$") from error
    if type(document) is not dict:
        raise BadRequest("the definition is no JSON object", path="$", next_step="a definition is an object with `nodes`")
    return document


def _warn_of_overrides(what: "dict[str, Any] | Definition") -> None:
    from dyrygentd.core.graph import Definition
    from dyrygentd.tasks.documents import tasks_of, warn_of_overrides

    if isinstance(what, Definition):
        warn_of_overrides(each.task for each in what.graph.signatures if each is not None)
    else:
        warn_of_overrides(tasks_of(what))


def _values(document: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    values = document.get("values") or {}
    if not isinstance(values, dict):
        raise BadRequest("`values` must be an object", path="$.values", next_step="write {name: value}")
    return {**values, **parameters}


def _document_body(document: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(document, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(
            f"JSON cannot carry the definition: {error}",
            path="$",
            next_step="use text, numbers, true, false, null, lists and objects",
        ) from error


def verb_body(**fields: Any) -> bytes:
    """Write what goes with a verb; fields that say nothing are left out, and a skipped node's value is encoded."""
    if "value" in fields and fields["value"] is not None:
        from dyrygentd.canvas import encode_value

        fields["value"] = json.loads(encode_value(fields["value"]))
    # A value that is false and a priority of 0 say something.
    said = {name: value for name, value in fields.items() if value is not None and (value or name in ("value", "priority"))}
    return json.dumps(said).encode()
