"""What the shell offers after TAB, asked as shells ask."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
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


def test_files_are_offered_where_one_may_be_named(short_tmp: Path) -> None:
    """A definition is a file more often than not; the shell knows those, and says which are there."""
    result = runner().invoke(
        main,
        [],
        prog_name="dyrygentctl",
        env={"_DYRYGENTCTL_COMPLETE": "bash_complete", "COMP_WORDS": "dyrygentctl submit fl", "COMP_CWORD": "2"},
    )
    assert result.stdout == "file,fl\n"


# --- in shells ------------------------------------------------------------------------------------------------------

_SUFFIXES = {"bash": "completions/dyrygentctl", "zsh": "_dyrygentctl", "fish": ".fish"}


class Shell:
    """A shell that has read its script, in a home of its own.

    Args:
        name: ``bash``, ``zsh`` or ``fish``.
        home: An empty directory.
        socket: Where the daemon is.
    """

    def __init__(self, name: str, home: Path, socket: Path) -> None:
        self.name, self.home = name, home
        self.program = shutil.which(name) or pytest.skip(f"NOT RUN: there is no {name} (Debian: {name})")
        [text] = [text for path, text in scripts(main).items() if path.endswith(_SUFFIXES[name])]
        # As zsh looks for it.
        self.script = home / "_dyrygentctl"
        self.script.write_text(text)
        beside = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {"HOME": str(home), "ZDOTDIR": str(home), "XDG_CONFIG_HOME": str(home), "XDG_DATA_HOME": str(home)}
        self.environment = {**os.environ, **own, "PATH": beside, "DYRYGENTD_SOCKET": str(socket), "TERM": "dumb"}

    def after_tab(self, line: str, *expected: str) -> str:
        """Return what the shell offers for a line; of zsh that is its screen, when all that is expected is on it."""
        if self.name == "zsh":
            return self._screen(line, expected)
        words = line.split(" ")
        bash = f"source {self.script}; COMP_WORDS=({line!r}); COMP_WORDS=($COMP_WORDS ''); COMP_CWORD={len(words) - 1}"
        asked = {
            "bash": f"{bash}; _dyrygentctl_completion dyrygentctl; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            "fish": f"source {self.script}; complete -C '{line}'",
        }[self.name]
        options = ["-N"] if self.name == "fish" else ["--norc"]
        done = subprocess.run(
            [self.program, *options, "-c", asked], env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.stderr == ""
        return done.stdout

    def _screen(self, line: str, expected: Sequence[str]) -> str:
        """Type into a zsh on a terminal of its own, press TAB, and read until all is there that is expected."""
        pid, terminal = pty.fork()
        if not pid:
            os.execve(self.program, ["zsh", "-f", "-i"], self.environment)
        try:
            # So that what is ambiguous is listed at once, also behind what all have in common.
            options = "PROMPT='> '; unsetopt list_ambiguous"
            setup = f"{options}; fpath=({self.home} $fpath); autoload -U compinit; compinit -u -D; echo rea''dy\n"
            os.write(terminal, setup.encode())
            _read_until(terminal, ["ready"])
            os.write(terminal, line.encode() + b"\t")
            return _read_until(terminal, expected)
        finally:
            os.close(terminal)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _read_until(terminal: int, words: Sequence[str], *, silence_max_s: float = 10.0) -> str:
    """Return what a terminal shows, until these words are there, or nothing more comes."""
    seen = ""
    while not all(word in seen for word in words) and select.select([terminal], [], [], silence_max_s)[0]:
        seen += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", os.read(terminal, 10_000).decode(errors="replace"))
    return seen


@pytest.mark.parametrize("shell", list(_SUFFIXES))
def test_scripts_are_what_shells_read(shell: str, tmp_path: Path) -> None:
    """Each shell that is here reads its own without complaint."""
    reader = Shell(shell, tmp_path, tmp_path)
    assert "_DYRYGENTCTL_COMPLETE" in reader.script.read_text()
    read = subprocess.run([reader.program, "-n", str(reader.script)], capture_output=True, env=reader.environment, check=False)
    assert (read.returncode, read.stderr) == (0, b"")


@pytest.mark.parametrize("shell", list(_SUFFIXES))
def test_shells_offer_what_the_daemon_knows(shell: str, ctl: Ctl, daemon: Daemon, tmp_path: Path) -> None:
    """Commands, states behind a comma, workflows, and nodes with a colon in their names, typed into the shell itself."""
    submit(ctl, {"name": "drain:1"}, {"name": "drain:2"}, name="nightly")
    (tmp_path / "home").mkdir()
    typed = Shell(shell, tmp_path / "home", daemon.path)
    for line, *expected in (
        ("dyrygentctl li", "lint", "list"),
        ("dyrygentctl list --state running,pa", "running,paused"),
        ("dyrygentctl show ni", "nightly"),
        ("dyrygentctl explain nightly ", "drain:1", "drain:2"),
    ):
        offers = typed.after_tab(line, *expected)
        assert all(word in offers for word in expected), (line, offers)


def test_fish_evaluates_the_script_that_is_installed(tmp_path: Path) -> None:
    """What the help says to evaluate keeps what stands behind a comma, too."""
    result = runner().invoke(main, [], prog_name="dyrygentctl", env={"_DYRYGENTCTL_COMPLETE": "fish_source"})
    [installed] = [text for path, text in scripts(main).items() if path.endswith(".fish")]
    assert result.stdout.strip() == installed.strip()
    assert "string split --max 1" in installed
