"""What a task says about itself while it runs, with and without the companion in the workers."""

from collections.abc import Iterator

import pytest
from celery import chain, chord

from dyrygentd import Client
from tests.integration.test_as_stored import site_of
from tests.support.strange import gate, ident, say

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", params=["import", "install"])
def companion(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of a daemon whose workers have the companion."""
    for site in site_of(STRANGE_COMPANION=request.param):
        yield site.client()


@pytest.fixture(scope="module")
def bare() -> Iterator[Client]:
    """A client of a daemon whose workers have no companion."""
    for site in site_of():
        yield site.client()


@pytest.fixture(scope="module")
def database() -> Iterator[Client]:
    """A client of a daemon whose workers have the companion, and results in a database."""
    for site in site_of(backend="db+sqlite:///{directory}/results.db", STRANGE_COMPANION="import"):
        yield site.client()


#: What is said, what happens then, and how it ends for who comes next.
ENDS = [
    ("SUCCESS", "return", "succeeded", 42),
    ("SUCCESS", "mark", "succeeded", 42),
    ("SUCCESS", "retry", "succeeded", 1),
    ("SUCCESS", "raise", "failed", "ValueError: after all"),
    ("FAILURE", "return", "succeeded", 42),
    ("FAILURE", "retry", "succeeded", 1),
    ("FAILURE", "raise", "failed", "ValueError: after all"),
    ("FAILURE", "ignore", "failed", "OSError: x"),
    ("REVOKED", "return", "succeeded", 42),
    ("REVOKED", "retry", "succeeded", 1),
]


def _check(client: Client, state: str, then: str, end: str, told: object) -> None:
    outcome = client.submit(chain(say.s(state, then), ident.s())).wait(timeout_s=60)
    assert outcome.state == end
    assert (outcome.result if end == "succeeded" else outcome.failed_nodes[0].error) == told


@pytest.mark.parametrize(("state", "then", "end", "told"), ENDS)
def test_end_is_the_end(companion: Client, state: str, then: str, end: str, told: object) -> None:
    """The next task starts after the end, and gets what the task returned."""
    _check(companion, state, then, end, told)


@pytest.mark.long
@pytest.mark.parametrize(("state", "then", "end", "told"), ENDS)
def test_end_is_the_end_with_results_in_a_database(database: Client, state: str, then: str, end: str, told: object) -> None:
    """The same where results are polled."""
    _check(database, state, then, end, told)


@pytest.mark.long
@pytest.mark.parametrize(("state", "then", "end", "told"), [each for each in ENDS if each[0] != "SUCCESS"])
def test_failures_are_doubted_without_the_companion(bare: Client, state: str, then: str, end: str, told: object) -> None:
    """A failure or revocation that Celery would not have stored like that is taken for the end when nothing follows it."""
    _check(bare, state, then, end, told)


def test_ignored_after_success(companion: Client) -> None:
    """A task that says it succeeded and asks to be ignored ends its chain, as on Celery."""
    outcome = companion.submit(chain(say.s("SUCCESS", "ignore"), ident.s())).wait(timeout_s=60)
    assert (outcome.state, outcome.result) == ("succeeded", None)


def _states(client: Client, canvas: object) -> dict[str, str]:
    handle = client.submit(canvas)
    handle.wait(timeout_s=60)
    return {str(node.task).rpartition(".")[2] + ("" if node.task_id else "-join"): node.state for node in handle.nodes()}


def test_task_ends_its_chain(companion: Client) -> None:
    """What follows in the chain does not run, as if the task had raised Ignore."""
    assert _states(companion, chain(gate.s(1, "close"), ident.s())) == {"gate": "skipped", "ident": "skipped"}
    assert _states(companion, chain(gate.s(1, "leave"), ident.s())) == {"gate": "succeeded", "ident": "succeeded"}


def test_task_ends_a_chain_that_nothing_follows(companion: Client) -> None:
    """Where nothing follows in the chain, it changes nothing, as on Celery: neither alone nor in a chord's header."""
    outcome = companion.submit(gate.s(1, "close")).wait(timeout_s=60)
    assert (outcome.state, outcome.result) == ("succeeded", 1)
    outcome = companion.submit(chord([gate.s(1, "close"), gate.s(2, "leave")], ident.s())).wait(timeout_s=60)
    assert (outcome.state, outcome.result) == ("succeeded", [1, 2])


def test_nothing_can_be_added_to_the_chain(companion: Client) -> None:
    """It would run unseen; the error names the way that is seen."""
    outcome = companion.submit(chain(gate.s(1, "append"), ident.s())).wait(timeout_s=60)
    assert outcome.state == "failed"
    assert "use `self.replace(chain(...))`" in str(outcome.failed_nodes[0].error)
