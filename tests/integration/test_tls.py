"""Broker and results over TLS with a certificate that is checked, on a server that offers nothing else but its Unix socket."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import anyio
import pytest

from dyrygentd.core.events import MessagePublished
from dyrygentd.daemon.embedded import EmbeddedServer, ServerNotStarted
from dyrygentd.transport.dispatcher import CeleryDispatcher
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.apps import closing
from tests.support.servers import CeleryWorker, Executions, wait_until
from tests.support.shapes import make
from tests.support.tasks import create_app
from tests.transport.conftest import publish_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@dataclass(frozen=True)
class _Tls:
    site: Site
    port: int

    def url(self, authority: str) -> str:
        """Return the URL of who trusts this authority alone."""
        return f"rediss://localhost:{self.port}/0?" + urlencode({"ssl_cert_reqs": "required", "ssl_ca_certs": authority})


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Tls]:
    """A server with a certificate of its own."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on PATH to make a certificate with")
    directory = tmp_path_factory.mktemp("tls")
    for name in ("ours", "other"):
        _make_certificate(directory / name)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    settings = {
        "bind": "127.0.0.1",
        "tls-port": str(port),
        "tls-cert-file": f"{directory}/ours.crt",
        "tls-key-file": f"{directory}/ours.key",
        "tls-auth-clients": "no",
    }
    # Short, as it has a socket in it.
    short = Path("/tmp", f"dyr{port}")
    server = EmbeddedServer(short, settings=settings)
    try:
        try:
            server.start()
        except ServerNotStarted as error:
            pytest.skip(f"this server was built without TLS: {error}")
        executions = Executions(server.url)
        yield _Tls(Site(server, executions, directory), port)
        executions.close()
    finally:
        server.stop()
        shutil.rmtree(short, ignore_errors=True)


def _make_certificate(path: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", f"{path}.key", "-out", f"{path}.crt"]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def url(tls: _Tls) -> str:
    """The URL of who trusts the server."""
    return tls.url(f"{tls.site.directory}/ours.crt")


def test_workflow_over_tls(tls: _Tls, url: str) -> None:
    """Messages, results and the workers' remote control go over TLS; every task is executed once."""
    shape = make("layered", 60)
    worker = CeleryWorker(url, log_directory=tls.site.directory, records_url=tls.site.server.url)
    daemon = tls.site.daemon("daemon", "--broker", url, "--result-backend", url)
    with worker, daemon, daemon.client() as client:
        assert client.submit(shape.definition).wait(timeout_s=60).state == "succeeded", daemon.log()
        health = client.health()
    assert health.status == "ok", health
    shape.assert_executed(tls.site.executions)


def test_push_from_the_loop(url: str) -> None:
    """Known messages leave from the event loop over TLS as well, not only from the thread."""

    async def publish() -> None:
        with closing(create_app(url, url)) as app:
            dispatcher = CeleryDispatcher(app)
            signature = app.tasks[tasks.echo.name].signature((1,))
            for number in range(3):
                message = publish_of(signature, task_id=f"tls-{number}")
                assert await dispatcher.publish([message]) == [MessagePublished(message.task_id)]
            assert dispatcher._loop_push is not None
            assert dispatcher._loop_push._connection.is_connected
            await dispatcher.close()

    anyio.run(publish)


def test_stranger_is_not_trusted(tls: _Tls) -> None:
    """A server whose certificate the operator does not trust gets no message, and health says why."""
    url = tls.url(f"{tls.site.directory}/other.crt")
    daemon = tls.site.daemon("stranger", "--broker", url, "--result-backend", url)
    with daemon, daemon.client() as client:
        client.submit(make("chain", 2).definition)
        wait_until(lambda: "certificate" in str(client.health()), message=lambda: str(client.health()))
        assert client.health().status != "ok"
        assert client.stats().dispatcher["published"] == 0
