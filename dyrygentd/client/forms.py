"""What both clients share: bodies and targets of requests, and the reading of answers. No input or output."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal
from urllib.parse import quote, urlencode

from dyrygentd import wire
from dyrygentd.core.graph import Definition
from dyrygentd.errors import BadRequest, DaemonUnreachable, DyrygentError, RemoteError

WAIT_POLL_S: Final = 20.0
"""Longest time that one poll of `wait` is held by the daemon."""

SILENCE_MAX_S: Final = 45.0
"""An event stream says something every 15 s; three times that means that the daemon is gone."""

RECONNECT_S: Final = 60.0
"""How long a stream tries to come back: a daemon that restarts recovers its workflows first."""

FAILED_NODES_MAX: Final = 100
PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """An event of a stream; ``view`` goes with ``workflow``."""

    kind: Literal["workflow", "end", "bye"]
    view: wire.WorkflowView | None = None


def submission_body(
    what: Any,
    *,
    key: str | None = None,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> bytes:
    """Write the definition of a canvas, `Workflow`, `Definition`, or of a definition document (dict, or JSON as bytes).

    Args:
        parameters: Values of the document's parameters; they go before those in its ``values``.
    """
    given: dict[str, Any] = {
        field: value
        for field, value in {"key": key, "name": name, "labels": None if labels is None else dict(labels)}.items()
        if value is not None
    }
    if isinstance(what, bytes | bytearray) and not given and not parameters:
        return bytes(what)
    if isinstance(what, bytes | bytearray):
        try:
            what = json.loads(what)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the definition is not valid JSON: {error}", path="$") from error
        if type(what) is not dict:
            raise BadRequest("the definition is no JSON object", path="$", next_step="a definition is an object with `nodes`")
    # A signature is a dict too, so only a plain one is a document.
    if type(what) is dict:
        return _document_body(what | given | ({"values": _values(what, parameters)} if parameters else {}))
    if parameters:
        raise BadRequest(
            f"a {type(what).__name__} has no parameters",
            path="$.values",
            next_step="put the values into the canvas itself; parameters belong to definition documents",
        )
    if not isinstance(what, Definition):
        from dyrygentd.canvas import definition_of

        what = definition_of(what, name=name, key=key, labels=labels)
    return wire.encode_definition(replace(what, **given))


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


def bulk_target(
    verb: str, *, states: Iterable[str] = (), name: str | None = None, labels: Mapping[str, str] | None = None
) -> str:
    """Return the target of a verb for many workflows."""
    query = {
        "state": list(states),
        "name": [name] if name is not None else [],
        "label": [f"{label}={value}" for label, value in (labels or {}).items()],
    }
    return f"/{wire.API_VERSION}/bulk/{quote(verb, safe='')}{_query(query)}"


def decoded_result(text: bytes) -> object:
    """Turn the JSON text of a result into a value; what has no types of kombu's needs no kombu."""
    if b'"__type__"' not in text:
        return json.loads(text)
    from dyrygentd.canvas import decode_value

    return decode_value(text)


def workflow_target(reference: str, *parts: str, query: Mapping[str, object] | None = None) -> str:
    """Return the target of a request about one workflow."""
    path = "/".join(quote(part, safe="") for part in ("workflows", reference, *parts))
    return f"/{wire.API_VERSION}/{path}{_query(query or {})}"


def listing_target(
    *,
    states: Iterable[str] = (),
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    limit: int,
    cursor: str | None = None,
) -> str:
    """Return the target of a page of the listing."""
    query = {
        "state": list(states),
        "name": [name] if name is not None else [],
        "label": [f"{label}={value}" for label, value in (labels or {}).items()],
        "limit": [limit],
        "cursor": [cursor] if cursor else [],
    }
    return f"/{wire.API_VERSION}/workflows{_query(query)}"


def nodes_target(workflow_id: str, *, states: Iterable[str] = (), limit: int = PAGE, cursor: str | None = None) -> str:
    """Return the target of a page of nodes."""
    query = {"state": list(states), "limit": [limit], "cursor": [cursor] if cursor else []}
    return workflow_target(workflow_id, "nodes", query=query)


def is_passing(error: DyrygentError) -> bool:
    """Tell whether waiting may help: the daemon restarts, or has reached a bound."""
    return isinstance(error, DaemonUnreachable) or (isinstance(error, RemoteError) and error.status == 503)


def pauses() -> Iterator[float]:
    """Yield growing pauses between tries, from 0.1 s to 2 s."""
    pause_s = 0.1
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, 2.0)


class EventReader:
    """Reads server-sent events line by line."""

    def __init__(self) -> None:
        self._kind = ""
        self._data = b""

    def feed(self, line: bytes) -> StreamEvent | None:
        """Take a line without its end; return an event if it completes one.

        Raises:
            RemoteError: The daemon reports that it cannot go on with this stream.
        """
        name, _, value = line.partition(b": ")
        if name == b"event":
            self._kind = value.decode()
        elif name == b"data":
            self._data += value
        elif not line and self._kind:
            kind, data = self._kind, self._data
            self._kind, self._data = "", b""
            return _stream_event(kind, data)
        return None


def _stream_event(kind: str, data: bytes) -> StreamEvent | None:
    match kind:
        case "workflow":
            return StreamEvent("workflow", wire.decode(data, wire.WorkflowView))
        case "end" | "bye":
            return StreamEvent(kind)
        case "error":
            raise wire.error_of_problem(data, 500)
        case _:
            return None  # A newer daemon may say more.


def _query(query: Mapping[str, object]) -> str:
    text = urlencode(query, doseq=True)
    return f"?{text}" if text else ""
