"""The OpenAPI document, made from the table of routes and the forms of `wire`."""

import re
from collections.abc import Iterable
from typing import Any, Final

from dyrygentd import __version__, wire
from dyrygentd.http.problems import JSON, PROBLEM
from dyrygentd.http.table import Route

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


def describe(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the OpenAPI document of these routes."""
    routes = list(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    forms = [form for route in routes for form in (route.answer, route.body) if isinstance(form, type)]
    # One that others have in them comes before these.
    schemas = wire.schemas(dict.fromkeys([*forms, wire.MapDocument, wire.NodeDocument, wire.WorkflowDocument]))
    wire.describe_map(schemas["MapDocument"]["properties"], "#/components/schemas")
    wire.describe_child(schemas["ChildDocument"]["properties"], "#/components/schemas")
    return {
        "openapi": "3.1.0",
        "info": {"title": "dyrygentd", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas | {"Problem": PROBLEM_SCHEMA}},
    }


def _operation(route: Route) -> dict[str, Any]:
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
    if route.method == "POST":
        operation["responses"]["202"] = {
            "description": "not on disk yet; it will be done as soon as it can be written (in bulk: see `not_on_disk_yet`)",
            "content": content if route.path.startswith("/v1/bulk/") else operation["responses"]["default"]["content"],
        }
    if route.takes_definition:
        operation["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": {"$ref": "#/components/schemas/WorkflowDocument"}}},
        }
        operation["responses"]["201"] = answer
    if route.body is not None:
        schema = {"$ref": f"#/components/schemas/{route.body.__name__}"}
        operation["requestBody"] = {"required": False, "content": {JSON: {"schema": schema}}}
    return operation
