"""The OpenAPI document, made from the table of routes and the forms of `wire`."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from dyrygentd import __version__, wire
from dyrygentd.http.problems import JSON, PROBLEM

if TYPE_CHECKING:
    from dyrygentd.http.routes import Route

# A definition is described by hand: its free parts (arguments, options, payload) stay text in `wire`, and have no schema there.
NODE: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "description": "unique in the workflow; made from the task and the position if left out"},
        "task": {"type": "string", "description": "name of the Celery task; missing for a join"},
        "join": {"type": "boolean", "default": False, "description": "no task: a point where others meet"},
        "args": {"type": "array", "items": {}, "default": []},
        "kwargs": {"type": "object", "default": {}},
        "options": {"type": "object", "default": {}, "description": "Celery's publish options: queue, priority, countdown …"},
        "immutable": {"type": "boolean", "default": False, "description": "the value of what precedes is not passed"},
        "task_id": {"type": "string"},
        "after": {"type": "array", "items": {"type": "string"}, "default": [], "description": "names of dependencies"},
    },
}
DEFINITION: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["nodes"],
    "properties": {
        "nodes": {"type": "array", "items": {"$ref": "#/components/schemas/Node"}, "minItems": 1},
        "version": {"type": "integer", "const": wire.DEFINITION_VERSION},
        "name": {"type": "string"},
        "key": {"type": "string", "description": "a second submission with this key is answered with the first one's id"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 50},
        "payload": {"description": "free JSON of the user"},
        "output": {"type": "string", "description": "name of the node whose value is the result"},
    },
}
PROBLEM_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "description": "RFC 9457",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "description": "a stable word for programs"},
        "next_step": {"type": "string"},
        "facts": {"type": "object"},
    },
}


def describe(routes: "Iterable[Route]") -> dict[str, Any]:
    """Return the OpenAPI document of these routes."""
    routes = list(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    forms = [route.answer for route in routes if isinstance(route.answer, type)]
    schemas = wire.schemas(dict.fromkeys(forms))
    return {
        "openapi": "3.1.0",
        "info": {"title": "dyrygentd", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas | {"Definition": DEFINITION, "Node": NODE, "Problem": PROBLEM_SCHEMA}},
    }


def _operation(route: "Route") -> dict[str, Any]:
    content: dict[str, Any]
    if isinstance(route.answer, type):
        content = {JSON: {"schema": {"$ref": f"#/components/schemas/{route.answer.__name__}"}}}
    else:
        content = {route.answer: {}}
    answer = {"description": route.about, "content": content}
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.about,
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in re.findall(r"{(\w+)}", route.path)
            ),
            *(
                {"name": each.name, "in": each.place, "description": each.about, "schema": dict(each.schema)}
                for each in route.parameters
            ),
        ],
        "responses": {
            "200": answer,
            "default": {
                "description": "what went wrong, and the next step",
                "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
    }
    if route.takes_definition:
        operation["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": {"$ref": "#/components/schemas/Definition"}}},
        }
        operation["responses"]["201"] = answer
    return operation
