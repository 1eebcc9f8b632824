"""Only what the page shows and does is passed on."""

import pytest

from dyrygentd.core.verbs import WORKFLOW_VERBS, Verb
from dyrygentd.http.table import ROUTES
from dyrygentd.loopback.refusals import NotPassedOn
from dyrygentd.loopback.targets import WITHHELD, target_of


def test_every_reading_route_is_passed_on_or_withheld() -> None:
    """A route that the daemon gets is met here, and somebody has thought about whether a page is to have it."""
    for route in ROUTES:
        if route.method == "GET" and route.path.startswith(("/v1/", "/healthz", "/readyz")):
            path = route.path.replace("{", "").replace("}", "")
            if route.path.rpartition("/")[2] in WITHHELD:
                with pytest.raises(NotPassedOn):
                    target_of("GET", path, "")
            else:
                query = "a=b&c=%2F" if path.startswith("/v1/") else ""
                assert target_of("GET", path, query) == (f"{path}?{query}" if query else path)


def test_verbs_are_passed_on() -> None:
    """All of them for one workflow, those of whole workflows for many."""
    for verb in Verb:
        assert target_of("POST", f"/v1/workflows/w/{verb}", "") == f"/v1/workflows/w/{verb}"
    for verb in WORKFLOW_VERBS:
        assert target_of("POST", f"/v1/bulk/{verb}", "state=running") == f"/v1/bulk/{verb}?state=running"


def test_names_keep_what_they_are_written_with() -> None:
    """A node may be called like a path, or like a workflow's verb."""
    for name in ("a%2Fb", "%E2%80%AE%00", "%252e", "..%2F..", "%3Fx", "explain", "%C3%A4"):
        assert target_of("GET", f"/v1/workflows/w/nodes/{name}", "") == f"/v1/workflows/w/nodes/{name}"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/workflows"),
        ("POST", "/v1/imports"),
        ("POST", "/v1/workflows/w/definition"),
        ("POST", "/v1/workflows/w/nodes/n/retry"),
        ("POST", "/v1/bulk/skip"),
        ("PUT", "/v1/workflows/w"),
        ("DELETE", "/v1/workflows/w"),
        ("HEAD", "/v1/stats"),
        ("GET", "/v1/workflows/w/export"),
        ("GET", "/v1/workflows/w/definition"),
        ("GET", "/v1/workflows/w/%64efinition"),
        ("GET", "/v1/workflows/w/nodes/../definition"),
        ("GET", "/v1/workflows/w/%2e%2e/stats"),
        ("GET", "/v1/workflows//nodes"),
        ("GET", "/v1/workflows/."),
        ("GET", "/v1"),
        ("GET", "/metrics"),
        ("GET", "/v2/stats"),
        ("GET", "//v1/stats"),
        ("GET", "http://localhost/v1/stats"),
        ("GET", "/v1/workflows/w\\..\\export"),
        ("GET", "*"),
        ("GET", ""),
    ],
)
def test_the_rest_is_not(method: str, path: str) -> None:
    """Neither what changes something by another way, nor what has arguments in it, nor a path that leads elsewhere."""
    with pytest.raises(NotPassedOn):
        target_of(method, path, "")
