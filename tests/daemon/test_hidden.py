"""An app that the service does not find: its next step names what keeps it from it."""

import os
from pathlib import Path

import pytest

from dyrygentd.daemon import hidden
from tests.support.activation import Service, listening_unix


def test_a_shell_needs_no_advice() -> None:
    """Outside systemd the app is looked for in the directory and environment of the person who reads the error."""
    assert hidden.advice({}) == ""


def test_hidden_home_is_named(tmp_path: Path) -> None:
    """What ProtectHome= has made inaccessible and empty is told, with the ways out of it."""
    (tmp_path / "home").mkdir(mode=0)
    os.chmod(tmp_path / "home", 0)
    said = hidden.advice({"NOTIFY_SOCKET": "x", "PYTHONPATH": f"{tmp_path}/home/ops/app"}, root=tmp_path)
    assert f"`ProtectHome=yes` in the unit hides '{tmp_path}/home/ops/app'" in said
    assert "ProtectHome=read-only" in said


def test_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    """So is one that nobody has made, or that the user may not enter."""
    (tmp_path / "home").mkdir()
    said = hidden.advice({"NOTIFY_SOCKET": "x", "PYTHONPATH": f"{tmp_path}:{tmp_path}/home/app"}, root=tmp_path)
    assert f"cannot read '{tmp_path}/home/app'" in said


@pytest.mark.parametrize("path", ["", "/usr"])
def test_service_says_where_it_looks(short_tmp: Path, path: str) -> None:
    """Under systemd the daemon names the directories it searches, and the file in which another one is named."""
    sockets = [listening_unix(short_tmp / "a.sock")]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH", "")]))}
    with Service(["--app", "no_such_tasks:app"], directory=short_tmp, sockets=sockets, environment=environment) as service:
        service.launch()
        assert service.wait() == 1
        assert "PYTHONPATH in /etc/dyrygentd/environment" in service.log()
        assert f"'{short_tmp}'" in service.log()
