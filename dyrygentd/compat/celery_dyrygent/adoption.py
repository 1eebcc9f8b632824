"""A workflow of celery-dyrygent, fresh or in mid-flight, as a definition document of dyrygentd. No input or output.

The original's dict says all that is needed: every node with its signature and task id, what is ``running`` (``{id: checks}``),
and what has ``finished`` (``{id: succeeded}``): it keeps whether a node succeeded, so nobody has to be asked. What it cannot say
is that a node was published in the very tick that was lost with its worker; such a node is published again, under the same id.
"""

import base64
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import NAMESPACE_OID, UUID, uuid5

from celery.canvas import Signature
from kombu import compression, serialization

from dyrygentd import canvas, wire
from dyrygentd.canvas.builder import draft_of
from dyrygentd.core.bounds import NAME_LENGTH_MAX
from dyrygentd.errors import BadNode, BadRequest, DyrygentError, EmptyWorkflow, UnknownDependency
from dyrygentd.tasks.known import current_app

#: ``version`` of the dicts of celery-dyrygent 0.8.0, the only one there is.
VERSION: Final = 1

_DEADLINE_MAX_S: Final = 5 * 366 * 86_400

#: Never pickle: what is adopted may come from a broker that others write to.
_ACCEPTED: Final = frozenset({"application/json", "application/x-yaml", "application/x-msgpack"})
#: A message in an entry of ``unacked`` in a list has five layers.
_LAYERS_MAX: Final = 10
_DUMP_IT: Final = "dump `Workflow.to_dict()` as JSON, or a message of the task 'workflow-processor'"


def adopted_definition(
    workflow_dict: Mapping[str, Any],
    *,
    key: str | None = None,
    name: str | None = None,
    now: float | None = None,
    app: Any = None,
) -> dict[str, Any]:
    """Make a definition with the same task ids; what was done is marked in the nodes' ``adopted``.

    ``adopted`` is ``succeeded``, ``failed``, ``dispatched`` (it is at a worker or in the broker, and awaited), or absent. As in
    the original, tasks are given no values of others, failures keep back what depends on them and nothing else, and
    ``tasks_options`` go before a signature's own options.

    Args:
        workflow_dict: What `Workflow.to_dict` of either library returns.
        key: Makes the submission repeatable; by default the workflow's id, or a digest of the task ids.
        name: By default the workflow's id, or else the first task's name.
        now: Unix time, to turn the limit of time into a deadline.
        app: The Celery app that has the tasks and their routes; by default the current one, if there is one.

    Raises:
        BadRequest, DefinitionError: It is no such dict, or the daemon could not run it.
    """
    nodes = _checked_nodes(workflow_dict)
    try:
        document = _definition(workflow_dict, nodes, key=key, name=name, now=time.time() if now is None else now, app=app)
        json.dumps(document, ensure_ascii=False).encode()
    except DyrygentError:
        raise
    # What is somewhere inside is read by Celery and kombu, which say in their own ways what does not fit.
    except (TypeError, AttributeError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
        words = f"what is in it is not as celery-dyrygent writes it: {type(error).__name__}: {error!s:.300}"
        raise BadRequest(words, path="$", next_step=_DUMP_IT) from error
    return document


def _definition(
    workflow_dict: Mapping[str, Any], nodes: Mapping[str, Any], *, key: str | None, name: str | None, now: float, app: Any
) -> dict[str, Any]:
    names = node_names(nodes)
    builder = canvas.Workflow()
    tasks_options = workflow_dict.get("tasks_options") or {}
    for task_id, node in nodes.items():
        # Nothing is passed on, so a join of the dependencies costs no value either.
        builder.add({**_published(names[task_id], node, tasks_options), "immutable": True}, name=names[task_id])
    # The program that hands it over has the tasks and the routes, and the daemon may have neither.
    known = draft_of(builder).known
    known.note_app(app or current_app())
    known.is_strict = False
    document: dict[str, Any] = json.loads(wire.encode_definition(builder.definition()))
    document.pop("output", None)
    joins = _Joins(nodes, names)
    for (task_id, node), entry in zip(nodes.items(), document["nodes"], strict=True):
        entry["task_id"] = task_id
        entry.pop("after", None)
        after = joins.after(task_id)
        if after:
            entry["after"] = after
        adopted = _adopted(task_id, workflow_dict)
        if adopted is not None:
            entry["adopted"] = adopted
        if node.get("custom_payload"):
            entry["payload"] = _plain(node["custom_payload"])
    document["nodes"] += joins.made()
    workflow_id = workflow_dict.get("id")
    document["key"] = key or workflow_id or str(uuid5(NAMESPACE_OID, "\n".join(sorted(nodes))))
    if name or workflow_id:
        document["name"] = name or workflow_id
    document.pop("payload", None)
    if workflow_dict.get("custom_payload"):
        document["payload"] = _plain(workflow_dict["custom_payload"])
    policy = _policy(workflow_dict, now)
    if policy:
        document["policy"] = policy
    return document


def workflow_dict_of(what: Any) -> dict[str, Any]:
    """Find the dict of a workflow in whatever holds it, and give it the id of the message it was found in.

    Known are the dict itself, the processor task's keyword arguments, message bodies of both of Celery's protocols, whole
    messages as Redis holds them (in a queue, or as an entry of ``unacked``), and an entry of ``celery inspect scheduled``; each
    as an object or as JSON.

    Raises:
        BadRequest: It is none of these, or cannot be decoded.
    """
    workflow_id: str | None = None
    for _ in range(_LAYERS_MAX):
        match what:
            case bytes() | bytearray() | str():
                what = _json(what)
            case {"nodes": dict()}:
                return {**what, "id": what.get("id") or workflow_id}
            case {"workflow_dict": inner}:
                what = inner
            case {"id": str(found), "kwargs": {"workflow_dict": inner}}:
                workflow_id, what = found, inner
            case {"kwargs": {"workflow_dict": inner}}:
                what = inner
            case {"request": dict() as inner}:
                what = inner
            case {"body": body}:
                workflow_id, what = _message_id(what) or workflow_id, _decoded_body(body, what)
            case [{"body": _} as inner, *_] | [_, {"workflow_dict": _} as inner, *_] | [{"nodes": _} as inner]:
                what = inner
            case [[{"nodes": _} as inner], *_] | {"args": [{"nodes": _} as inner]}:
                what = inner
            case _:
                break
    raise BadRequest(f"this is no workflow of celery-dyrygent, but {_shown(what)}", path="$", next_step=_DUMP_IT)


def node_names(nodes: Mapping[str, Any]) -> dict[str, str]:
    """Name the nodes: ``{task id: name}``. The names depend on the nodes alone, not on their order.

    An id that a user chose is the name; one that Celery made is cut short behind the task's last word.
    """
    short = {task_id: _short_name(task_id, node) for task_id, node in nodes.items()}
    counts = Counter(short.values())
    return {task_id: name if counts[name] == 1 else task_id for task_id, name in short.items()}


def _policy(workflow_dict: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Turn the limit of processing time into the workflow's deadline; one that is over is over at once."""
    limit_at = workflow_dict.get("processing_limit_ts")
    # Who sets a limit of many years means none.
    if limit_at is None or limit_at - now > _DEADLINE_MAX_S:
        return {}
    return {"deadline_s": max(1.0, float(limit_at) - now)}


def _checked_nodes(workflow_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the nodes, or tell what is wrong with the dict."""
    nodes: Any = workflow_dict.get("nodes")
    if not isinstance(nodes, Mapping):
        raise BadRequest("the workflow has no mapping `nodes`", path="$.nodes", next_step=_DUMP_IT)
    if workflow_dict.get("version", VERSION) != VERSION:
        raise BadRequest(f"version {workflow_dict['version']!r} is unknown, celery-dyrygent writes {VERSION}", path="$.version")
    if not nodes:
        raise EmptyWorkflow
    for task_id, node in nodes.items():
        if not isinstance(node, Mapping) or not isinstance(node.get("signature"), Mapping) or "task" not in node["signature"]:
            raise BadNode(str(task_id)[:NAME_LENGTH_MAX], "it has no `signature`")
        if not isinstance(node.get("dependencies") or {}, Mapping):
            raise BadNode(task_id, "`dependencies` must be a mapping of task ids")
        for dependency in node.get("dependencies") or ():
            if dependency not in nodes:
                raise UnknownDependency(task_id, dependency)
    if not isinstance(workflow_dict.get("tasks_options") or {}, Mapping):
        raise BadRequest("`tasks_options` must be a mapping of options", path="$.tasks_options", next_step=_DUMP_IT)
    for part in ("running", "finished"):
        found = workflow_dict.get(part) or {}
        if not isinstance(found, Mapping):
            raise BadRequest(f"`{part}` must be a mapping of task ids", path=f"$.{part}")
        for task_id in found:
            if task_id not in nodes:
                raise BadRequest(f"`{part}` names '{task_id}', which is not among the nodes", path=f"$.{part}")
    return nodes


def _adopted(task_id: str, workflow_dict: Mapping[str, Any]) -> str | None:
    finished = workflow_dict.get("finished") or {}
    if task_id in finished:
        return "succeeded" if finished[task_id] else "failed"
    return "dispatched" if task_id in (workflow_dict.get("running") or {}) else None


def _published(name: str, node: Mapping[str, Any], tasks_options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the signature as ``signature.apply_async(**tasks_options)`` would send it: the workflow's options win."""
    signature: Mapping[str, Any] = node["signature"]
    given = {option: value for option, value in tasks_options.items() if option != "route_name"}
    if not given:
        return signature
    try:
        merged: Mapping[str, Any] = Signature(dict(signature)).clone(given.pop("args", None), given.pop("kwargs", None), **given)
    # Celery merges whatever it is given, and says what does not fit in its own ways.
    except Exception as error:
        raise BadNode(name, f"the workflow's options do not fit to the task: {error}") from error
    return merged


def _short_name(task_id: str, node: Mapping[str, Any]) -> str:
    try:
        UUID(task_id)
    except ValueError:
        return task_id
    return f"{node['signature']['task'].rpartition('.')[2][: NAME_LENGTH_MAX // 2]}-{task_id[:8]}"


def _plain(value: object) -> Any:
    return json.loads(canvas.encode_value(value))


class _Joins:
    """Dependencies by name. What several nodes wait for together becomes a join: n nodes after m others cost n+m edges."""

    def __init__(self, nodes: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self._after = {task_id: tuple(sorted(node.get("dependencies") or ())) for task_id, node in nodes.items()}
        self._names = names
        taken = set(names.values())
        free = (name for number in range(1, 2 * len(nodes) + 2) if (name := f"join-{number}") not in taken)
        self._joins: dict[tuple[str, ...], str] = {
            wanted: next(free)
            for wanted, count in Counter(self._after.values()).items()
            if len(wanted) * count > len(wanted) + count
        }

    def after(self, task_id: str) -> list[str]:
        """Return the names of what a node waits for."""
        wanted = self._after[task_id]
        return [self._joins[wanted]] if wanted in self._joins else [self._names[each] for each in wanted]

    def made(self) -> Iterator[dict[str, Any]]:
        """Return the joins as nodes."""
        for wanted, name in self._joins.items():
            yield {"name": name, "join": True, "after": [self._names[each] for each in wanted]}


# --- messages -------------------------------------------------------------------------------------------------------


def _json(text: bytes | bytearray | str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"it is not valid JSON: {error}", path="$", next_step=_DUMP_IT) from error


def _part(message: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return headers or properties of a message; what is no object has none."""
    found = message.get(name)
    return found if isinstance(found, Mapping) else {}


def _message_id(message: Mapping[str, Any]) -> str | None:
    found = _part(message, "headers").get("id") or _part(message, "properties").get("correlation_id")
    return found if isinstance(found, str) else None


def _decoded_body(body: Any, message: Mapping[str, Any]) -> object:
    """Decode the body of a message the way kombu's consumers do, but never by pickle."""
    headers, properties = _part(message, "headers"), _part(message, "properties")
    try:
        if properties.get("body_encoding") == "base64":
            body = base64.b64decode(body, validate=True)
        if headers.get("compression"):
            body = compression.decompress(body, headers["compression"])
        content_type = message.get("content-type") or properties.get("content_type") or "application/json"
        encoding = message.get("content-encoding") or properties.get("content_encoding") or "utf-8"
        decoded: object = serialization.loads(body, content_type, encoding, accept=_ACCEPTED)
    # Kombu's decoders raise whatever the libraries below them do.
    except Exception as error:
        raise BadRequest(f"the message's body cannot be decoded: {error}", path="$.body", next_step=_DUMP_IT) from error
    return decoded


def _shown(what: object) -> str:
    if isinstance(what, Mapping):
        return f"an object with {', '.join(repr(str(name)[:30]) for name in list(what)[:5]) or 'nothing in it'}"
    return f"a {type(what).__name__}"
