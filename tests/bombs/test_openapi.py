"""The interface as it describes itself, tried by schemathesis: requests of the described forms and of others, by a fixed seed."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.lowlevel
import pytest
import requests
import urllib3
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from requests.adapters import HTTPAdapter

from dyrygentd.core.verbs import Verb
from dyrygentd.http.openapi import describe
from dyrygentd.http.table import ROUTES
from tests.http.support import Daemon
from tests.support.size import of_size

#: A stream has no end, and a request that asks for nothing else has no body to compare.
_STREAMS: Final = "/events"
#: For each route, in each mode; all of it takes some twenty seconds.
_EXAMPLES: Final = of_size(4, 10)

_DESCRIPTION: Final = describe(ROUTES)
#: As the description has them; ``parameters`` is there beside the methods.
_OPERATIONS: Final = [
    f"{method} {path}" for path, methods in _DESCRIPTION["paths"].items() for method in methods if method != "parameters"
]


class _UnixConnection(urllib3.connection.HTTPConnection):
    """A connection to the socket whose path is the pool's."""

    unix_path = ""

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self.unix_path)


class _UnixAdapter(HTTPAdapter):
    """Sends everything to one socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        connection = type("Connection", (_UnixConnection,), {"unix_path": str(path)})
        self._pool = type("Pool", (urllib3.HTTPConnectionPool,), {"ConnectionCls": connection})("localhost")

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> Any:
        """Return the only pool."""
        return self._pool


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, requests.Session]]:
    """A daemon with a workflow that does not end, one that failed and one that was cancelled, and a client of it."""
    path = Path(f"/tmp/openapi-{tmp_path_factory.mktemp('d').stat().st_ino}.sock")
    with Daemon(path, holds=True) as daemon, requests.Session() as session:
        session.mount("http://", _UnixAdapter(path))
        daemon.submit({"name": "one", "task": "add", "args": [1, {"password": "x"}]}, name="known")
        failed = daemon.submit(
            {"name": "one", "task": "fail", "payload": {"rack": [1]}}, {"name": "two", "task": "add"}, name="failed"
        )
        daemon.call(_end_first_of, daemon, failed)
        cancelled = daemon.submit({"name": "one", "task": "add"}, name="cancelled")
        daemon.ask("POST", f"/v1/workflows/{cancelled}/cancel")
        yield daemon, session


@pytest.fixture(scope="module")
def operations() -> dict[str, Any]:
    """What schemathesis makes of the description, by name."""
    # It takes two seconds to import, which each process that collects tests would spend.
    import schemathesis
    from schemathesis.core.result import Ok

    found = schemathesis.openapi.from_dict(_DESCRIPTION).get_all_operations()
    operations = [result.ok() for result in found if isinstance(result, Ok)]
    return {f"{operation.method} {operation.path}": operation for operation in operations}


def test_all_operations_are_tried(operations: dict[str, Any]) -> None:
    """None is left out because it is not understood."""
    assert operations.keys() == set(_OPERATIONS)


@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.parametrize("name", _OPERATIONS)
def test_requests_of_all_kinds(
    name: str, mode: str, operations: dict[str, Any], session: tuple[Daemon, requests.Session]
) -> None:
    """None is answered with a 5xx, and each answer has a form that is described, errors included."""
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks as described

    checks = [
        not_a_server_error,
        described.status_code_conformance,
        described.content_type_conformance,
        described.response_schema_conformance,
    ]
    daemon, client = session
    operation = operations[name]
    if operation.path.endswith(_STREAMS):
        pytest.skip("a stream has no end")
    number = 0
    statuses: set[int] = set()

    @settings(
        # Of verbs few fit the state that a workflow is in.
        max_examples=10 if "{verb}" in name else _EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=GenerationMode(mode)))
    def check(case: Any) -> None:
        nonlocal number
        number += 1
        _make_real(case, number)
        response = case.call(base_url="http://localhost", session=client, timeout=20)
        statuses.add(response.status_code)
        case.validate_response(response, checks=checks)

    try:
        check()
    except Unsatisfiable:
        pytest.skip("nothing about it can be wrong")
    # What is described gets through, so that more is tried than refusals.
    assert mode == "negative" or "import" in operation.definition.raw["operationId"] or statuses & {200, 201}, statuses
    assert daemon.ask("GET", "/healthz").json["status"] == "ok"


async def _end_first_of(daemon: Daemon, workflow_id: str) -> None:
    """Let the tasks of a workflow end."""
    with anyio.fail_after(10):
        while len(mine := [each for each in daemon.broker.published if each.workflow_id == workflow_id]) < 2:
            await anyio.lowlevel.checkpoint()
    daemon.broker.let_go(*(each.task_id for each in mine))


def _make_real(case: Any, number: int) -> None:
    """Let most requests be about something that there is: what is made up is not found, and nothing further is tried."""
    parameters = case.path_parameters or {}
    if "ref" in parameters and number % 4:
        parameters["ref"] = ("known", "failed", "cancelled")[number % 3]
    if "name" in parameters and number % 4:
        parameters["name"] = "one"
    if "file" in parameters and number % 4:
        parameters["file"] = "htm.js" if "vendor" in case.path else "app.js"
    if "verb" in parameters and number % 4:
        parameters["verb"] = list(Verb)[number % len(Verb)].value
    if case.path.startswith("/v1/bulk/") and number % 4:
        case.query = {"name": ("known", "failed", "cancelled")[number % 3]}
    if "verb" in parameters and isinstance(case.body, dict) and number % 3:
        case.body = {**case.body, "cause": ("1", "lost", "0")[number % 3]}
    if case.path == "/v1/workflows" and isinstance(case.body, dict) and number % 4:
        # Of nodes that are made up most contradict themselves.
        case.body = {**case.body, "nodes": [{"name": "one", "task": "add"}]}
        for field in ("output", "parameters", "values", "policy", "version"):
            case.body.pop(field, None)
    if case.query and "wait_s" in case.query:
        del case.query["wait_s"]
