"""`dyrygentd install-units`: what it writes is what systemd and man accept, and nobody's changes are lost."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from dyrygentd.cli import main as dyrygentctl
from dyrygentd.cli.manual import paragraphs
from dyrygentd.cli.serve import main as dyrygentd
from dyrygentd.daemon import config, unit_files
from dyrygentd.daemon.example import example
from tests.support.activation import Service
from tests.support.daemon import ROOT

UNITS = ("dyrygentd.service", "dyrygentd.socket", "dyrygentd@gra1.service", "dyrygentd@gra1.socket")
EXPOSURE_MAX = 1.5


def _needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not on this host: {', '.join(missing)}")


def _install(*arguments: str) -> Result:
    return CliRunner().invoke(dyrygentd, ["install-units", *arguments])


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """Where everything was installed for the system."""
    result = _install("--prefix", str(tmp_path / "usr"))
    assert result.exit_code == 0, result.output
    return tmp_path / "usr"


@pytest.fixture
def run(prefix: Path) -> Callable[..., str]:
    """Run a program that finds units and man pages below the prefix, and return what it says."""

    def run(*command: str, status: int = 0, **environment: str) -> str:
        manual = {"MANPATH": f"{prefix}/share/man", "SYSTEMD_UNIT_PATH": f"{prefix}/lib/systemd/system:"}
        environ = {**os.environ, **manual, "LC_ALL": "C.UTF-8", "MANWIDTH": "100", **environment}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


# --- units ----------------------------------------------------------------------------------------------------------


@_needs("systemd-analyze", "man")
def test_units_are_accepted(prefix: Path, run: Callable[..., str]) -> None:
    """Systemd has nothing to say about the units, their programs and their man pages."""
    said = run("systemd-analyze", "verify", *(f"{prefix}/lib/systemd/system/{unit}" for unit in UNITS))
    # What it says of other units of this host is not about ours.
    assert "dyrygentd" not in said


@_needs("systemd-analyze", "man")
def test_user_units_are_accepted(tmp_path: Path, run: Callable[..., str]) -> None:
    """Neither has the manager of a user."""
    assert _install("--user", "--prefix", str(tmp_path / "home")).exit_code == 0
    units = tmp_path / "home/share/systemd/user"
    found = [str(path) for path in sorted(units.iterdir())]
    assert len(found) == 2
    environment = {"SYSTEMD_UNIT_PATH": f"{units}:", "XDG_RUNTIME_DIR": str(tmp_path)}
    assert "dyrygentd" not in run("systemd-analyze", "--user", "verify", *found, **environment)


@_needs("systemd-analyze")
@pytest.mark.parametrize("unit", ["dyrygentd.service", "dyrygentd@gra1.service"])
def test_exposure_is_low(prefix: Path, run: Callable[..., str], unit: str) -> None:
    """The service can do little besides its work."""
    path = f"{prefix}/lib/systemd/system/{unit}"
    threshold = f"--threshold={EXPOSURE_MAX * 10:.0f}"
    said = run("systemd-analyze", "security", "--offline=true", "--no-pager", threshold, path)
    match = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert match is not None
    assert float(match[1]) <= EXPOSURE_MAX


@_needs("strace", "systemd-analyze")
def test_filter_permits_what_is_called(short_tmp: Path, run: Callable[..., str]) -> None:
    """The daemon and the broker that it starts make no system call that the unit forbids."""
    trace = short_tmp / "trace"
    own = ["--socket", str(short_tmp / "d.sock"), "--drain-timeout-s", "0.1", "--listen", "127.0.0.1:0"]
    with Service(own, directory=short_tmp) as service:
        # With -D the daemon is the child, as without it, and strace watches from the side.
        service._command = ["strace", "-D", "-f", "-qq", "-o", str(trace), *service._command]
        service.start()
        assert service.stop() == 0
    called = set(re.findall(r"(?m)^\d+ +([a-z]\w*)\(", trace.read_text(errors="replace")))
    assert len(called) > 50
    unit = (unit_files.templates() / "dyrygentd.service").read_text()
    filters = re.findall(r"(?m)^SystemCallFilter=(~?)(.*)$", unit)
    assert [sign for sign, _ in filters] == ["", "~"]
    permitted, forbidden = ({call for group in names.split() for call in _calls(run, group)} for _, names in filters)
    # SQLite gives its files to the database's owner, but only as root; being refused is no error to it.
    assert called - (permitted - forbidden) <= {"fchown"}


def test_no_memory_becomes_code(short_tmp: Path) -> None:
    """The daemon, its event loop, and the broker that it starts get along with MemoryDenyWriteExecute=."""
    deny = [sys.executable, "-c", _DENY_WRITE_EXECUTE]
    if subprocess.run([*deny, "true"], check=False, timeout=30).returncode:
        pytest.skip("the kernel has no PR_SET_MDWE, which does what the unit does by a filter")
    own = ["--socket", str(short_tmp / "d.sock"), "--drain-timeout-s", "0.1"]
    with Service(own, directory=short_tmp) as service:
        service._command = [*deny, *service._command]
        service.start()
        assert service.stop() == 0


# 65 is PR_SET_MDWE, 1 is PR_MDWE_REFUSE_EXEC_GAIN; since Linux 6.3.
_DENY_WRITE_EXECUTE = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):
    sys.exit(1)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def _calls(run: Callable[..., str], group: str) -> set[str]:
    """Return the system calls of a group such as @system-service, those of the groups in it included."""
    found: set[str] = set()
    for line in run("systemd-analyze", "--no-pager", "syscall-filter", group).splitlines()[1:]:
        word = line.strip()
        if word.startswith("@"):
            found |= _calls(run, word)
        elif word and not word.startswith("#"):
            found.add(word)
    return found


def _settings(name: str) -> list[str]:
    text = (unit_files.templates() / name).read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("kind", ["service", "socket"])
def test_instances_are_like_the_one(kind: str) -> None:
    """The units of instances differ from the plain ones by the name of the instance, and in nothing else."""
    one, many = _settings(f"dyrygentd.{kind}"), _settings(f"dyrygentd@.{kind}")
    plain = []
    for line in many:
        if line == "Environment=DYRYGENTD_CONFIG=/etc/dyrygentd/%i.toml":
            continue
        line = line.replace("/dyrygentd/%i.environment", "/dyrygentd/environment").replace("dyrygentd@%i", "dyrygentd")
        plain.append(line.replace("dyrygentd/%i", "dyrygentd").replace(", %i", "").replace(" of %i", ""))
    assert plain == one


@_needs("systemd-sysusers", "systemd-tmpfiles")
@pytest.mark.skipif(os.geteuid() != 0, reason="users are made by root only")
def test_user_and_directories_are_made(prefix: Path, tmp_path: Path, run: Callable[..., str]) -> None:
    """The user of the service and the directories that it is given come from the two files."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    run("systemd-sysusers", f"--root={root}", f"{prefix}/lib/sysusers.d/dyrygentd.conf")
    user, _, number, *_ = next(line for line in (root / "etc/passwd").read_text().splitlines() if "dyrygent" in line).split(":")
    assert user == "dyrygent"
    run("systemd-tmpfiles", f"--root={root}", "--create", f"{prefix}/lib/tmpfiles.d/dyrygentd.conf")
    assert (root / "run/dyrygentd").stat().st_uid == int(number)
    assert (root / "etc/dyrygentd").stat().st_uid == 0


def test_command_line_is_quoted() -> None:
    """Directories with spaces and signs of systemd's own are taken as they are."""
    assert unit_files._word("/opt/dyrygentd/bin/dyrygentd") == "/opt/dyrygentd/bin/dyrygentd"
    assert unit_files._word("/opt/a b/100%/$x/bin") == '"/opt/a b/100%%/$$x/bin"'


def test_templates_are_in_the_wheel() -> None:
    """What is read from the source here is in the package where it is installed."""
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert built["force-include"]["systemd"] == "dyrygentd/daemon/units"
    assert (ROOT / "systemd/dyrygentd.service").exists()


# --- the command ----------------------------------------------------------------------------------------------------


def test_prints_without_writing(tmp_path: Path) -> None:
    """Without a place to write to, every file is printed under its name, filled in for this environment."""
    result = _install()
    assert result.exit_code == 0
    heads = re.findall(r"(?m)^# ==> (\S+)$", result.stdout)
    assert heads == list(unit_files.unit_files(for_user=False))
    assert f"ExecStart={unit_files.command_line()} serve" in result.stdout
    assert "@EXECUTABLE@" not in result.stdout
    assert "man pages" in result.stderr


def test_writes_for_everybody_to_read(tmp_path: Path) -> None:
    """Files can be read by all, whatever the umask of the shell, and the next steps are told for real prefixes only."""
    before = os.umask(0o077)
    try:
        result = _install("--prefix", str(tmp_path / "a/usr"))
    finally:
        os.umask(before)
    assert result.exit_code == 0
    written = [Path(line) for line in result.stdout.splitlines()]
    assert {path.stat().st_mode & 0o777 for path in written} == {0o644}
    assert {path.parent.stat().st_mode & 0o777 for path in written} == {0o755}
    assert {path for path in (tmp_path / "a").rglob("*") if path.is_file()} == set(written)
    assert "systemctl" not in result.stderr


def test_changes_are_not_lost(prefix: Path) -> None:
    """A file that somebody has changed is overwritten by force only; writing the same again changes nothing."""
    service, socket = (prefix / f"lib/systemd/system/dyrygentd.{kind}" for kind in ("service", "socket"))
    socket.write_text("changed")
    service.unlink()
    result = _install("--prefix", str(prefix))
    assert result.exit_code == 1
    assert f"differs: {socket}" in result.stderr
    assert socket.read_text() == "changed"
    assert not service.exists()
    assert _install("--prefix", str(prefix), "--force").exit_code == 0
    inode = service.stat().st_ino
    assert "ListenStream=" in socket.read_text()
    assert _install("--prefix", str(prefix)).exit_code == 0
    assert service.stat().st_ino == inode


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A prefix that is no directory is named, without a traceback."""
    (tmp_path / "file").write_text("")
    result = _install("--prefix", str(tmp_path / "file"))
    assert result.exit_code == 1
    assert "cannot write" in result.stderr


def test_user_units_go_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a user everything is below ~/.local, and nothing needs root."""
    monkeypatch.setenv("HOME", str(tmp_path))
    result = _install("--user", "--write")
    assert result.exit_code == 0
    assert (tmp_path / ".local/share/systemd/user/dyrygentd.service").exists()
    assert (tmp_path / ".local/share/man/man1/dyrygentctl.1").exists()
    assert "systemctl --user enable --now dyrygentd.socket dyrygentd.service" in result.stderr
    text = (tmp_path / ".local/share/systemd/user/dyrygentd.service").read_text()
    assert not re.search(r"(?m)^(User|Group|PrivateTmp|ProtectSystem|CapabilityBoundingSet)=", text)


# --- the example of a configuration ---------------------------------------------------------------------------------


def test_example_changes_nothing() -> None:
    """As it is, the example is a configuration of defaults."""
    assert tomllib.loads(example()) == {}


def test_example_has_every_key_and_its_default(tmp_path: Path) -> None:
    """With every comment sign removed the example is taken by the daemon, and says what would be so without it."""
    path = tmp_path / "dyrygentd.toml"
    path.write_text(re.sub(r"(?m)^#(\w+ = )", r"\1", example()))
    assert list(tomllib.loads(path.read_text())) == [setting.name for setting in config.settings()]
    environ = {"HOME": str(tmp_path)}
    loaded = config.load(path, {}, environ=environ).configuration
    for setting in config.settings():
        if setting.default is not None:
            assert getattr(loaded, setting.name) == getattr(config.Configuration(), setting.name)


# --- man pages ------------------------------------------------------------------------------------------------------


def _commands() -> list[tuple[str, click.Command, click.Context]]:
    found: list[tuple[str, click.Command, click.Context]] = []
    for name, group in (("dyrygentd", dyrygentd), ("dyrygentctl", dyrygentctl)):
        context = click.Context(group, info_name=name, help_option_names=["-h", "--help"])
        found.append((name, group, context))
        for child, command in group.commands.items():
            found.append((f"{name}-{child}", command, click.Context(command, info_name=child, parent=context)))
    return found


@_needs("man")
def test_every_command_has_its_page(prefix: Path, run: Callable[..., str]) -> None:
    """Each page says every word that `--help` says."""
    pages = {path.name for path in (prefix / "share/man/man1").iterdir()}
    assert pages == {f"{name}.1" for name, _, _ in _commands()}
    for name, command, context in _commands():
        shown = _words(run("man", "-l", f"{prefix}/share/man/man1/{name}.1"))
        formatter = click.HelpFormatter(width=1000)
        command.format_help(context, formatter)
        helped = _words(formatter.getvalue().replace("Usage:", "").replace(":\n", "\n"))
        missing = [word for word in helped if word.lower() not in {each.lower() for each in shown}]
        assert not missing, f"{name}: {missing}"


def _words(text: str) -> Sequence[str]:
    # Backspaces are how bold is written where nobody has a terminal.
    return re.sub(r".\x08", "", text).split()


@_needs("man", "groff")
def test_pages_are_without_fault(prefix: Path, run: Callable[..., str]) -> None:
    """Neither man nor groff warns, of anything."""
    for path in sorted((prefix / "share/man/man1").iterdir()):
        assert subprocess.run(["man", "--warnings", "-l", str(path)], capture_output=True, timeout=60, check=True).stderr == b""
        groff = ["groff", "-man", "-Tutf8", "-ww", str(path)]
        assert subprocess.run(groff, capture_output=True, timeout=60, check=True).stderr == b"", path


@_needs("groff")
def test_signs_of_roff_are_shown() -> None:
    r"""What means something to roff is text in a page: dots and quotes at the beginning, backslashes, dashes, other scripts."""
    text = ".SH no\n\n'quoted' \\fB--flag `code` \"é…\" ~ ^"
    groff = ["groff", "-man", "-Tutf8", "-ww"]
    source = f".TH X 1\n.SH NAME\n{paragraphs(text)}"
    shown = subprocess.run(groff, input=source.encode(), capture_output=True, timeout=60, check=True).stdout.decode()
    plain = " ".join(re.sub(r"\x1b\[\d+m", "", shown).split())
    assert ".SH no 'quoted' \\fB--flag `code` \"é…\" ~ ^" in plain


def test_lines_of_examples_are_kept() -> None:
    """A paragraph that click is told not to wrap is not wrapped by man either."""
    assert paragraphs("\b\none\ntwo") == ".nf\none\ntwo\n.fi\n"


def test_page_is_the_same_tomorrow() -> None:
    """A page has no date, so that installing again changes nothing and packages can be reproduced."""
    command = [sys.executable, "-c", "from dyrygentd.cli.manual import pages; print(pages())"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1"}
    one = subprocess.run(command, capture_output=True, env=environ, timeout=60, check=True).stdout
    environ["PYTHONHASHSEED"] = "2"
    assert subprocess.run(command, capture_output=True, env=environ, timeout=60, check=True).stdout == one
