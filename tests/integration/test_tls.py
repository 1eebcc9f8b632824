"""Broker and results over TLS with a certificate that is checked, on a server that offers nothing else but its Unix socket."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import anyio
import pytest

from dyrygentd.core.events import MessagePublished
from dyrygentd.daemon.embedded import ServerNotStarted
from dyrygentd.transport.dispatcher import CeleryDispatcher
from dyrygentd.transport.marked_publishing import MarkedPublishing
from tests.integration.conftest import Site, running_site
from tests.support import tasks
from tests.support.activation import listening_tcp
from tests.support.apps import closing
from tests.support.servers import CeleryWorker, wait_until
from tests.support.shapes import make
from tests.support.tasks import create_app
from tests.transport.conftest import publish_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@dataclass(frozen=True)
class _Tls:
    site: Site
    certificates: Path
    port: int

    def url(self, trusted: str) -> str:
        """Return the URL of who trusts the certificate of this name alone."""
        options = {"ssl_cert_reqs": "required", "ssl_ca_certs": self.certificates / f"{trusted}.crt"}
        return f"rediss://localhost:{self.port}/0?" + urlencode(options)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Tls]:
    """A server with a certificate of its own."""
    if shutil.which("openssl") is None:
        pytest.skip("NOT RUN: no openssl on PATH to make a certificate with")
    certificates = tmp_path_factory.mktemp("tls")
    for name in ("ours", "other"):
        _make_certificate(certificates / name)
    with listening_tcp() as found:
        port = int(found.getsockname()[1])
    settings = {
        "bind": "127.0.0.1",
        "tls-port": str(port),
        "tls-cert-file": f"{certificates}/ours.crt",
        "tls-key-file": f"{certificates}/ours.key",
        "tls-auth-clients": "no",
    }
    with ExitStack() as exits:
        try:
            site = exits.enter_context(running_site(workers=0, settings=settings))
        except ServerNotStarted as error:
            # Valkey's words, and those of a Redis that does not know the setting.
            if not re.search("Failed finding TLS support|Bad directive", error.log_tail):
                raise
            pytest.skip("NOT RUN: the server that was found has been built without TLS")
        yield _Tls(site, certificates, port)


def _make_certificate(path: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", f"{path}.key", "-out", f"{path}.crt"]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def url(tls: _Tls) -> str:
    """The URL of who trusts the server."""
    return tls.url("ours")


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
            assert isinstance(dispatcher._way, MarkedPublishing)
            assert dispatcher._way.loop_push is not None
            assert dispatcher._way.loop_push._asking._connection.is_connected
            await dispatcher.close()

    anyio.run(publish)


@pytest.mark.long
def test_stranger_is_not_trusted(tls: _Tls) -> None:
    """A server whose certificate the operator does not trust gets no message, and health says why."""
    url = tls.url("other")
    daemon = tls.site.daemon("stranger", "--broker", url, "--result-backend", url)
    with daemon, daemon.client() as client:
        # Without ids of its own: those would be looked for in the result backend before they are taken.
        client.submit(
            {
                "nodes": [
                    {"name": "a", "task": "tests.support.tasks.noop"},
                    {"name": "b", "task": "tests.support.tasks.noop", "after": ["a"]},
                ]
            }
        )
        # Who publishes and who listens are two clients of Redis, and each has to find out for itself.
        wait_until(
            lambda: sum("CERTIFICATE_VERIFY_FAILED" in problem for problem in client.health().problems) == 2,
            message=lambda: str(client.health()),
        )
        assert client.stats().dispatcher["published"] == 0
