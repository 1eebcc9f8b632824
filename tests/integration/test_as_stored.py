"""What workers have stored is read as it was stored: exceptions by name, values as text, pickles as data."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import celery
import pytest
from celery import chain

from dyrygentd import Client, Retry, Workflow
from dyrygentd.daemon.embedded import EmbeddedServer
from tests.support.daemon import Daemon
from tests.support.directories import short_directory
from tests.support.servers import CeleryWorker
from tests.support.strange import evil, fail, greet, ident, make_user, name_of, plain

pytestmark = pytest.mark.integration

APP = "tests.support.strange"
Strange = Callable[..., Client]

#: What is raised: the name to retry on, and the beginning of what it says.
RAISED = {
    "ApiError": "ApiError: 503",
    "JSONDecodeError": "JSONDecodeError: Expecting property name",
    "TwoArguments": "TwoArguments: broken at gra1",
    "Holder": "Holder: <unlocked _thread.lock",
    "ValidationError": "ValidationError: 1 validation error for Person",
    "FileNotFoundError": "FileNotFoundError: [Errno 2] No such file or directory: '/nonexistent/file'",
    "KeyError": "KeyError: 'missing in",
}


class Site:
    """A worker of the strange app, and daemons for it."""

    def __init__(self, directory: Path, exits: ExitStack, *, backend: str, serializer: str, **environment: str) -> None:
        self.directory = directory
        server = exits.enter_context(EmbeddedServer(directory))
        self._exits = exits
        self.environment = {
            "DYRYGENTD_TEST_BROKER": server.url,
            "DYRYGENTD_TEST_BACKEND": backend.format(directory=directory, redis=server.url),
            "STRANGE_SERIALIZER": serializer,
            **environment,
        }
        worker = CeleryWorker(
            server.url,
            self.environment["DYRYGENTD_TEST_BACKEND"],
            records_url=server.url,
            log_directory=directory,
            app=APP,
            environment=self.environment,
        )
        exits.callback(worker.stop)
        worker.start()

    def client(self, *flags: str, **environment: str) -> Client:
        """Start a daemon and return a client of it."""
        directory = Path(tempfile.mkdtemp(prefix="d", dir=self.directory))
        environment = {**self.environment, "DYRYGENTD_TEST_NO_LOOKUP": "1", **environment}
        daemon = Daemon(["--app", APP, *flags], directory=directory, environment=environment)
        self._exits.enter_context(daemon)
        return self._exits.enter_context(Client(str(daemon.socket_path)))


def site_of(*, backend: str = "{redis}", serializer: str = "json", **environment: str) -> Iterator[Site]:
    """Run a worker of the strange app, and stop it and its daemons afterwards."""
    with ExitStack() as exits:
        directory = exits.enter_context(short_directory())
        yield Site(directory, exits, backend=backend, serializer=serializer, **environment)


@pytest.fixture(
    scope="module",
    params=["{redis}", pytest.param("db+sqlite:///{directory}/results.db", marks=pytest.mark.long)],
    ids=["redis", "database"],
)
def json_site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A worker whose results are JSON, in Redis and in a database."""
    yield from site_of(backend=request.param, serializer="json")


@pytest.fixture(scope="module")
def json_client(json_site: Site) -> Client:
    """A daemon for it."""
    return json_site.client()


@pytest.fixture(
    scope="module",
    params=["{redis}", pytest.param("db+sqlite:///{directory}/results.db", marks=pytest.mark.long)],
    ids=["redis", "database"],
)
def pickle_site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A worker whose results are pickles, in Redis and in a database."""
    yield from site_of(backend=request.param, serializer="pickle")


@pytest.fixture(scope="module")
def pickle_client(pickle_site: Site) -> Client:
    """A daemon for it that may not unpickle."""
    return pickle_site.client()


def _failing(how: str) -> Workflow:
    workflow = Workflow(f"fails with {how}")
    workflow.add(fail.si(how), name="fails", retry=Retry(attempts=2, backoff_s=0.01, on=frozenset({how})))
    return workflow


def _check_raised(client: Client, how: str) -> None:
    handle = client.submit(_failing(how))
    failed = handle.wait(timeout_s=60).failed_nodes[0]
    assert str(failed.error).startswith(RAISED[how])
    assert failed.attempt == 2
    assert [cause.cause.split()[0] for cause in handle.causes().causes] == [how]


@pytest.mark.long
@pytest.mark.parametrize("how", RAISED)
def test_exceptions_have_the_name_that_they_were_raised_under(json_client: Client, how: str) -> None:
    """A policy that names an exception applies to it, whatever its constructor takes."""
    _check_raised(json_client, how)


@pytest.mark.long
@pytest.mark.parametrize("how", RAISED)
def test_pickled_exceptions_have_it_too(pickle_client: Client, how: str) -> None:
    """An exception in a pickle is read by its name, and not made."""
    _check_raised(pickle_client, how)


def test_values_of_the_apps_own_types_are_handed_on(json_site: Site, json_client: Client) -> None:
    """Only workers look the objects up; nobody decodes them in the daemon, also not among extended results and arguments."""
    outcome = json_client.submit(chain(make_user.s("bob"), greet.s())).wait(timeout_s=60)
    if celery.__version__ < "5.7" and "db+" in json_site.environment["DYRYGENTD_TEST_BACKEND"]:
        # It pickles all results there, whatever the serializer, and what is no data needs permission.
        assert "the daemon reads pickles as data" in str(outcome.failed_nodes[0].error)
        return
    assert (outcome.state, outcome.result) == ("succeeded", "bob")
    outcome = json_client.submit(chain(make_user.s("bob"), name_of.s("!"), ident.s())).wait(timeout_s=60)
    assert (outcome.state, outcome.result) == ("succeeded", "bob!")


def test_pickles_of_plain_data_are_read(pickle_client: Client) -> None:
    """Plain data needs no unpickling."""
    outcome = pickle_client.submit(chain(plain.s(), ident.s())).wait(timeout_s=60)
    assert (outcome.state, outcome.result) == ("succeeded", {"a": [1, None, 2.5, "ä"]})


def _left(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def test_nothing_is_unpickled_without_permission(pickle_site: Site, pickle_client: Client) -> None:
    """A pickle that holds an object fails what needs the value, in words, and `skip` with a value goes on."""
    path = pickle_site.directory / "evil"
    handle = pickle_client.submit(chain(evil.s(str(path)), ident.s()))
    outcome = handle.wait(timeout_s=60)
    assert outcome.state == "failed"
    assert "the daemon reads pickles as data, unless `pickled_results` is 'unpickle'" in str(outcome.failed_nodes[0].error)
    assert _left(path) == []
    explained = handle.explain(str(outcome.failed_nodes[0].name))
    assert explained.next_step.startswith(f"`skip {outcome.failed_nodes[0].name} --value null`")
    handle.skip(outcome.failed_nodes[0].name, value=7)
    assert handle.wait(timeout_s=60).result == 7


def test_unpickling_is_allowed_by_name(pickle_site: Site) -> None:
    """Who allows it gets what the app's workers get."""
    path = pickle_site.directory / "allowed"
    client = pickle_site.client("--pickled-results", "unpickle")
    outcome = client.submit(chain(evil.s(str(path)), ident.s())).wait(timeout_s=60)
    assert (outcome.state, outcome.result) == ("succeeded", str(path))
    assert _left(path)
