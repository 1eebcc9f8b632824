"""What is not on disk in time and will be done: its own status, error class and exit status, and never an error."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dyrygentd import AsyncClient, Client, errors
from dyrygentd.scheduler import SchedulerLimits
from tests.cli.support import ctl_of
from tests.http.support import Daemon
from tests.support.servers import wait_until

_LIMITS = SchedulerLimits(follow_interval_s=0.0, durable_timeout_s=1.0)


@pytest.fixture
def full(short_tmp: Path) -> Iterator[Daemon]:
    """A daemon whose disk is full from the test's first request on; two workflows are in flight."""
    with Daemon(short_tmp / "full.sock", holds=True, scheduler_limits=_LIMITS) as running:
        yield running


def _fill(daemon: Daemon) -> tuple[str, str]:
    ids = daemon.submit(name="one"), daemon.submit(name="two")
    daemon.call(setattr, daemon.store, "broken", "disk full")
    return ids


def _make_room(daemon: Daemon) -> None:
    daemon.call(setattr, daemon.store, "broken", "")
    wait_until(lambda: daemon.ask("GET", "/readyz").status == 200, timeout_s=10)


def test_status_and_document(full: Daemon) -> None:
    """202 with a problem document for what will be done, the usual refusal for what will not, and both are true afterwards."""
    one, two = _fill(full)
    answer = full.ask("POST", f"/v1/workflows/{one}/pause", {"why": "CHG-42"})
    assert (answer.status, answer.headers["Content-Type"]) == (202, "application/problem+json")
    assert "Retry-After" not in answer.headers
    assert (answer.json["code"], answer.json["facts"]["workflow_id"]) == ("not-on-disk-yet", one)
    assert answer.json["detail"].endswith("is not on disk yet, and will be done when it is: disk full")
    assert full.ask("POST", f"/v1/workflows/{one}/hold", {"nodes": ["nowhere"]}).status == 404
    bulk = full.ask("POST", "/v1/bulk/cancel?name=two", {})
    assert (bulk.status, bulk.json["not_on_disk_yet"], bulk.json["refused"]) == (202, [two], [])
    _make_room(full)
    assert full.ask("GET", f"/v1/workflows/{one}").json["state"] == "paused"
    assert full.ask("GET", f"/v1/workflows/{two}").json["state"] == "cancelled"
    assert full.ask("POST", f"/v1/workflows/{one}/resume", {}).status == 200


def test_submission_with_a_key(full: Daemon) -> None:
    """It is taken as soon as it can be written: 202 with its id; without a key it is undone, which is an error."""
    _fill(full)
    # The disk is found full by what is written next, and from then on nothing new is taken.
    answer = full.ask("POST", "/v1/workflows", {"key": "ticket", "nodes": [{"task": "add"}]})
    assert (answer.status, answer.json["code"]) == (202, "not-on-disk-yet")
    later = full.ask("POST", "/v1/workflows", {"nodes": [{"task": "add"}]})
    assert (later.status, later.json["code"]) == (503, "not-accepting")
    _make_room(full)
    again = full.ask("POST", "/v1/workflows", {"key": "ticket", "nodes": [{"task": "add"}]})
    assert (again.status, again.json["id"]) == (200, answer.json["facts"]["workflow_id"])


async def _cancel(path: Path, workflow_id: str) -> None:
    async with AsyncClient(path) as client:
        await (await client.handle(workflow_id)).cancel()


def test_clients_raise_a_class_of_its_own(full: Daemon) -> None:
    """Both clients raise `NotOnDiskYet`, which programs that know of `RemoteError` alone catch as well."""
    one, two = _fill(full)
    with pytest.raises(errors.NotOnDiskYet) as caught:
        Client(full.path).handle(one).cancel()
    assert isinstance(caught.value, errors.RemoteError)
    assert (caught.value.status, caught.value.code) == (202, "not-on-disk-yet")
    assert (caught.value.what, caught.value.workflow_id) == ("'cancel'", one)
    with pytest.raises(errors.RemoteNotOnDiskYet):
        full.call(_cancel, full.path, two)
    assert Client(full.path).perform_in_bulk("cancel", states=["cancelled"]).not_on_disk_yet == []
    _make_room(full)
    assert Client(full.path).get(one).state == "cancelled"


def test_exit_status(full: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 if something will be done, 1 if something else was refused beside it; the JSON document names the code."""
    ctl = ctl_of(full, tmp_path, monkeypatch)
    one, two = _fill(full)
    said = ctl("cancel", one)
    assert said.exit_code == 4
    assert said.stderr.startswith(f"not yet: 'cancel' of workflow '{one}' is not on disk yet")
    assert "error" not in said.stderr
    assert ctl("hold", two, "nowhere").exit_code == 1
    assert '"code":"not-on-disk-yet"' in ctl("--json", "pause", two).stdout
    _make_room(full)
    assert ctl("resume", two).exit_code == 0
