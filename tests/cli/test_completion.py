"""What the shell offers after TAB, asked as shells ask."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dyrygentd.cli import main
from dyrygentd.cli.completion import scripts
from tests.cli.support import Ctl, submit
from tests.http.support import Daemon
from tests.support.commands import runner


def offered(daemon: Daemon | Path, line: str) -> list[str]:
    """Return what is offered at the end of a command line."""
    words = f"dyrygentctl {line}".split(" ")
    path = daemon.path if isinstance(daemon, Daemon) else daemon
    environment = {
        "_DYRYGENTCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
        "DYRYGENTD_SOCKET": str(path),
    }
    result = runner().invoke(main, [], prog_name="dyrygentctl", env=environment)
    return [line.partition(",")[2] for line in result.stdout.splitlines() if line]


def test_states_are_offered(holding: Daemon) -> None:
    """Of workflows and of nodes, one after another in a list."""
    assert offered(holding, "list --state ") == ["scheduled", "running", "paused", "succeeded", "failed", "cancelled"]
    assert offered(holding, "list --state running,p") == ["running,paused"]
    assert offered(holding, "show x --state f") == ["failed"]
    assert "blocked" in offered(holding, "show x --state ")
    assert offered(holding, "cancel --state run") == ["running"]


def test_workflows_nodes_and_causes_are_offered(ctl: Ctl, daemon: Daemon) -> None:
    """Who types the beginning of an id or a name need not look the rest up; a name that needs quotes is left out."""
    workflow = submit(ctl, {"name": "drain", "task": "fail"}, {"name": "check", "after": ["drain"]}, name="nightly")
    submit(ctl, {"name": "a"}, name="two words; rm")
    daemon.finish(workflow)
    assert offered(daemon, "show ") == ["@latest", "nightly"]
    assert offered(daemon, f"explain {workflow[:6]}") == [workflow]
    assert offered(daemon, "explain nightly ") == ["drain", "check"]
    assert offered(daemon, "retry nightly d") == ["drain"]
    assert offered(daemon, "show nightly --node c") == ["check"]
    [cause] = json.loads(ctl("show", "nightly", "--causes", "--json").stdout)["causes"]
    assert offered(daemon, "retry nightly --cause ") == [cause["id"]]


def test_sections_are_offered_part_by_part(slow_ctl: Ctl, holding: Daemon) -> None:
    """A path is opened as it is typed; what is a single node is not opened, and what needs quotes is not offered."""
    sections = ("drain/osd-1", "drain/osd-2", "check", "two words")
    submit(slow_ctl, *({"name": f"{number}", "section": each} for number, each in enumerate(sections)), name="nightly")
    assert offered(holding, "graph nightly --section ") == ["drain", "check"]
    assert offered(holding, "graph nightly --section d") == ["drain"]
    assert offered(holding, "graph nightly --section drain/osd") == ["drain/osd-1", "drain/osd-2"]
    assert offered(holding, "graph nightly --section nowhere/") == []


def test_no_daemon_offers_nothing(short_tmp: Path) -> None:
    """An error in the middle of a line that is being typed helps nobody."""
    assert offered(short_tmp / "none", "explain x ") == []
    assert offered(short_tmp / "none", "show @") == ["@latest"]


@pytest.mark.parametrize(("shell", "suffix"), [("bash", "completions/dyrygentctl"), ("zsh", "_dyrygentctl"), ("fish", ".fish")])
def test_scripts_are_what_shells_read(shell: str, suffix: str, tmp_path: Path) -> None:
    """Each shell that is here reads its own without complaint."""
    [text] = [text for path, text in scripts(main).items() if path.endswith(suffix)]
    assert "_DYRYGENTCTL_COMPLETE" in text
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"NOT RUN: there is no {shell} (Debian: {shell})")
    (tmp_path / "script").write_text(text)
    read = subprocess.run([program, "-n", str(tmp_path / "script")], capture_output=True, env=dict(os.environ), check=False)
    assert (read.returncode, read.stderr) == (0, b"")
