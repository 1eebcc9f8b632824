"""A broker's socket that this user may not use: said with whose it is, by each command that needs it."""

import os
from pathlib import Path

import pytest
from celery import Celery

from dyrygentd.advice import with_advice
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.errors import BrokerUnavailable
from dyrygentd.transport.workers import ask_fleet


def test_advice_names_the_user() -> None:
    """The client library's words are followed by what can be done."""
    said = with_advice("cannot reach the broker: ConnectionError: Error 13 connecting to /x/broker.sock. Permission denied.")
    assert "is for the daemon's user alone" in said
    assert "`sudo -u dyrygent …`" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use every socket")
def test_workers_cannot_be_asked(short_tmp: Path) -> None:
    """`lint --workers` by somebody else than the broker's user ends with the reason and the next step."""
    with EmbeddedServer(short_tmp / "state", appendonly=False) as server, Celery(broker=server.url, set_as_current=False) as app:
        server.directory.chmod(0)
        try:
            with pytest.raises(BrokerUnavailable, match="Permission denied") as caught:
                ask_fleet(app)
            assert "sudo -u dyrygent" in caught.value.next_step
        finally:
            server.directory.chmod(0o700)
