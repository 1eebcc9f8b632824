"""Asking the workers what they have, where that cannot be."""

import os
import subprocess
import sys

import pytest

from dyrygentd.daemon.embedded import EmbeddedServer
from tests.support.daemon import ROOT

_ASKING = """
import os, sys
from celery import Celery
from dyrygentd.errors import BrokerUnavailable
from dyrygentd.transport.workers import ask_fleet
app = Celery("a", broker=sys.argv[1], set_as_current=False)
# Once as root: the interpreter may be where that user cannot read, and imports some of itself late.
ask_fleet(app, timeout_s=0.1)
os.setgroups([]); os.setegid(4712); os.seteuid(4711)
try:
    ask_fleet(Celery("b", broker=sys.argv[1], set_as_current=False), timeout_s=0.1)
except BrokerUnavailable as error:
    print(error, "|", error.next_step)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_socket_of_another_user(redis_server: EmbeddedServer) -> None:
    """The broker of the service's own is open to its user alone: who asks as another one is told as whom to ask."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _ASKING, redis_server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environ)
    assert "Permission denied" in done.stdout, done.stdout + done.stderr
    assert "ask as that user, for the service's own `sudo -u dyrygent`" in done.stdout
