"""`dyrygentd install-units`: what it writes is what systemd and man accept, and nobody's changes are lost."""

import json
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
from click.testing import Result

from dyrygentd.cli import main as dyrygentctl
from dyrygentd.cli.manual import paragraphs
from dyrygentd.cli.serve import main as dyrygentd
from dyrygentd.daemon import config, unit_files
from dyrygentd.daemon.example import example
from tests.support.activation import Service
from tests.support.commands import runner
from tests.support.daemon import ROOT

UNITS = (
    "dyrygentd.service",
    "dyrygentd.socket",
    "dyrygentd-broker.service",
    "dyrygentd@gra1.service",
    "dyrygentd@gra1.socket",
    "dyrygentd-broker@gra1.service",
    "dyrygentd-submit@nightly.service",
    "dyrygentd-submit@nightly.timer",
)
EXPOSURE_MAX = 1.5


def _needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not on this host: {', '.join(missing)}")


def _install(*arguments: str) -> Result:
    return runner().invoke(dyrygentd, ["install-units", *arguments])


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
    assert len(found) == 3
    environment = {"SYSTEMD_UNIT_PATH": f"{units}:", "XDG_RUNTIME_DIR": str(tmp_path)}
    assert "dyrygentd" not in run("systemd-analyze", "--user", "verify", *found, **environment)


@_needs("systemd-analyze")
@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.endswith(".service")])
def test_exposure_is_low(prefix: Path, run: Callable[..., str], unit: str) -> None:
    """The service can do little besides its work."""
    path = f"{prefix}/lib/systemd/system/{unit}"
    threshold = f"--threshold={EXPOSURE_MAX * 10:.0f}"
    said = run("systemd-analyze", "security", "--offline=true", "--no-pager", threshold, path)
    match = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert match is not None
    assert float(match[1]) <= EXPOSURE_MAX


@pytest.mark.long
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


@pytest.mark.parametrize(("name", "kind"), [("dyrygentd", "service"), ("dyrygentd", "socket"), ("dyrygentd-broker", "service")])
def test_instances_are_like_the_one(name: str, kind: str) -> None:
    """The units of instances differ from the plain ones by the name of the instance, and in nothing else."""
    one, many = _settings(f"{name}.{kind}"), _settings(f"{name}@.{kind}")
    plain = []
    for line in many:
        if line == "Environment=DYRYGENTD_CONFIG=/etc/dyrygentd/%i.toml":
            continue
        line = line.replace("/dyrygentd/%i.environment", "/dyrygentd/environment")
        line = line.replace("dyrygentd@%i", "dyrygentd").replace("dyrygentd-broker@%i", "dyrygentd-broker")
        plain.append(line.replace("dyrygentd/%i", "dyrygentd").replace(", %i", "").replace(" of %i", ""))
    assert plain == one


@pytest.mark.parametrize("unit", ["dyrygentd.service", "dyrygentd@.service"])
def test_process_can_be_measured(unit: str) -> None:
    """What the metrics of the process are read from, /proc/stat among it, is not hidden from the service."""
    assert "ProcSubset=all" in _settings(unit)


@pytest.mark.parametrize("unit", ["dyrygentd.service", "dyrygentd@.service", "user/dyrygentd.service"])
def test_starts_are_not_counted(unit: str) -> None:
    """Whatever has failed how often, it can be started by hand as soon as the reason is mended."""
    assert "StartLimitIntervalSec=0" in _settings(unit)


def test_broker_outlives_the_daemon() -> None:
    """The broker's unit is wanted by the daemon's and ordered before it, and nothing stops it with the daemon."""
    for suffix, instance in (("", ""), ("@", "@%i")):
        daemon, broker = _settings(f"dyrygentd{suffix}.service"), _settings(f"dyrygentd-broker{suffix}.service")
        name = f"dyrygentd-broker{instance}.service"
        assert {f"Wants={name}", f"After={name}", f"Environment=DYRYGENTD_BROKER_UNIT={name}"} <= set(daemon)
        assert not [line for line in broker if re.match("PartOf|BindsTo|Requires|StopPropagated|StopWhenUnneeded", line)]
        assert {"Restart=always", "RestartPreventExitStatus=0 2"} <= set(broker)
        shared = ("User=", "Group=", "StateDirectory", "EnvironmentFile=", "LoadCredential=broker-url", "Environment=DYRYGENTD_C")
        assert {line for line in broker if line.startswith(shared)} == {line for line in daemon if line.startswith(shared)}


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


def test_workers_finish_what_runs() -> None:
    """The drop-in for a worker's unit, and the whole one, stop it in such a way that no running task fails."""
    for name in ("celery-worker.conf", "celery-worker.service"):
        assert {"KillMode=mixed", "TimeoutStopSec=10min"} <= set(_settings(name)), name


@_needs("systemd-analyze")
def test_unit_of_a_worker_is_accepted(prefix: Path, run: Callable[..., str]) -> None:
    """The example of a worker's unit is one that systemd takes, and that fails no task when it stops."""
    text = (prefix / "share/doc/dyrygentd/celery-worker.service").read_text()
    assert {"KillMode=mixed", "After=dyrygentd.service dyrygentd-broker.service network-online.target"} <= set(text.splitlines())
    unit = prefix / "lib/systemd/system/celery-worker.service"
    # Its program, the operator's, is not on this machine.
    unit.write_text(text.replace("/opt/dyrygentd/bin/celery", sys.executable))
    assert "celery-worker" not in run("systemd-analyze", "verify", str(unit))


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
        result = _install("--verbose", "--prefix", str(tmp_path / "a/usr"))
    finally:
        os.umask(before)
    assert result.exit_code == 0
    written = [Path(line) for line in result.stdout.splitlines()]
    assert {path.stat().st_mode & 0o777 for path in written} == {0o644}
    assert {path.parent.stat().st_mode & 0o777 for path in written} == {0o755}
    assert {path for path in (tmp_path / "a").rglob("*") if path.is_file()} == set(written)
    assert "systemctl" not in result.stderr


def test_files_are_told_by_directory(tmp_path: Path) -> None:
    """Dozens of paths hide what follows: a line a directory, with what was done; JSON has each file."""
    arguments = ("--prefix", str(tmp_path / "usr"))
    lines = _install(*arguments).stdout.splitlines()
    units = tmp_path / "usr/lib/systemd/system"
    count = len(list(units.iterdir()))
    assert f"{units}: {count} written" in lines
    assert len(lines) < 12
    (units / "dyrygentd.service").write_text("changed")
    said = next(line for line in _install("--force", *arguments).stdout.splitlines() if line.startswith(f"{units}: "))
    assert "1 written" in said
    assert f"{count - 1} unchanged" in said
    told = json.loads(_install("--json", *arguments).stdout)
    assert {each["change"] for each in told} == {"unchanged"}
    assert {Path(each["path"]) for each in told} == {path for path in (tmp_path / "usr").rglob("*") if path.is_file()}


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


def test_difference_is_shown(prefix: Path) -> None:
    """After an upgrade one sees what an older unit lacks and what somebody has changed, before anything is overwritten."""
    unit = prefix / "lib/systemd/system/dyrygentd.service"
    unit.write_text(unit.read_text().replace("RestartSec=1s", "RestartSec=7s"))
    result = _install("--prefix", str(prefix))
    assert result.exit_code == 1
    assert "  -RestartSec=7s\n  +RestartSec=1s\n" in result.stderr
    assert "--force" in result.stderr
    forced = _install("--prefix", str(prefix), "--force")
    assert "  -RestartSec=7s" in forced.stderr
    assert "RestartSec=1s" in unit.read_text()


def test_documentation_needs_no_force(prefix: Path) -> None:
    """Man pages and examples are the program's own: those of another version are replaced."""
    for path in ("share/man/man1/dyrygentd.1", "share/doc/dyrygentd/dyrygentd.toml"):
        (prefix / path).write_text("older")
    assert _install("--prefix", str(prefix)).exit_code == 0
    assert "older" not in (prefix / "share/doc/dyrygentd/dyrygentd.toml").read_text()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_commands_are_linked(home: Path) -> None:
    """The commands are on PATH afterwards; a link to an earlier environment is made anew, and what is no such link stays."""
    links = {name: home / ".local/bin" / name for name in ("dyrygentd", "dyrygentctl")}
    links["dyrygentd"].parent.mkdir(parents=True)
    links["dyrygentd"].symlink_to("/opt/earlier/bin/dyrygentd")
    links["dyrygentctl"].write_text("somebody's")
    result = _install("--user", "--write")
    assert result.exit_code == 0
    assert links["dyrygentd"].readlink() == Path(sys.executable).with_name("dyrygentd")
    assert links["dyrygentctl"].read_text() == "somebody's"
    assert f"'{links['dyrygentctl']}' is there already" in result.stderr
    links["dyrygentctl"].unlink()
    assert _install("--user", "--write").exit_code == 0
    assert str(links["dyrygentctl"]) in _install("--user", "--write", "--verbose").stdout.splitlines()


def test_what_was_installed_is_removed(home: Path) -> None:
    """After `--remove` nothing of it is left but what is the user's: configuration and data, which are named."""
    before = {path for path in home.rglob("*") if path.is_file()}
    written = set(_install("--user", "--write", "--verbose").stdout.splitlines())
    state = home / ".local/state/dyrygentd/state.db"
    state.parent.mkdir(parents=True)
    state.write_text("data")
    result = _install("--user", "--remove", "--verbose")
    assert result.exit_code == 0, result.output
    configuration = home / ".config/dyrygentd/dyrygentd.toml"
    assert set(result.stdout.splitlines()) == written - {str(configuration)}
    assert {path for path in home.rglob("*") if path.is_file() or path.is_symlink()} == before | {state, configuration}
    assert f"left: {configuration.parent}: configuration" in result.stderr
    assert f"left: {state.parent}: state" in result.stderr
    assert not (home / ".local/share/doc/dyrygentd").exists()
    again = _install("--user", "--remove")
    assert again.exit_code == 0
    assert "there is nothing of it" in again.stderr


def test_nothing_is_removed_under_a_service(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is enabled or runs, instances too, is named with the command, and a unit that somebody has changed needs force."""
    _install("--user", "--write")
    wants = home / ".config/systemd/user/default.target.wants"
    wants.mkdir(parents=True)
    for name in ("dyrygentd.service", "dyrygentd@gra1.socket"):
        (wants / name).symlink_to("/nowhere")
    result = _install("--user", "--remove")
    assert result.exit_code == 1
    assert "systemctl --user disable --now dyrygentd@gra1.socket dyrygentd.service" in result.stderr
    shutil.rmtree(wants)
    running = home / "run/systemd/units/invocation:dyrygentd-broker.service"
    running.parent.mkdir(parents=True)
    running.symlink_to("0123456789abcdef")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    assert "systemctl --user disable --now dyrygentd-broker.service" in _install("--user", "--remove").stderr
    running.unlink()
    unit = home / ".local/share/systemd/user/dyrygentd.socket"
    unit.write_text("changed")
    result = _install("--user", "--remove")
    assert result.exit_code == 1
    assert f"differs: {unit}" in result.stderr
    assert unit.exists()
    assert _install("--user", "--remove", "--force").exit_code == 0
    assert not unit.exists()
    assert _install("--write", "--remove").exit_code == 2


def test_what_stays_on_a_host_is_named(tmp_path: Path) -> None:
    """Configuration, credentials, drop-ins, state and the user are the operator's to remove."""
    left = [
        "etc/dyrygentd",
        "etc/credstore/dyrygentd@gra1.broker-url",
        "etc/systemd/system/dyrygentd.service.d",
        "var/lib/dyrygentd",
    ]
    for path in left:
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\ndyrygent:x:9:9::/:/bin/sh\n")
    found = unit_files.left_behind(for_user=False, root=tmp_path)
    assert [path for path, _ in found[:5]] == [tmp_path / path for path in [*left, "etc/passwd"]]


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A prefix that is no directory is named, without a traceback."""
    (tmp_path / "file").write_text("")
    result = _install("--prefix", str(tmp_path / "file"))
    assert result.exit_code == 1
    assert "cannot write" in result.stderr


def test_user_units_go_home(home: Path) -> None:
    """For a user everything is below ~/.local, and nothing needs root; a configuration of their own is there, and stays."""
    tmp_path = home
    result = _install("--user", "--write")
    assert result.exit_code == 0
    assert (tmp_path / ".local/share/systemd/user/dyrygentd.service").exists()
    assert (tmp_path / ".local/share/man/man1/dyrygentctl.1").exists()
    assert "systemctl --user enable --now dyrygentd.socket dyrygentd.service" in result.stderr
    text = (tmp_path / ".local/share/systemd/user/dyrygentd.service").read_text()
    assert not re.search(r"(?m)^(User|Group|PrivateTmp|ProtectSystem|CapabilityBoundingSet|StateDirectory)=", text)
    assert "Environment=DYRYGENTD_CONFIG=-%E/dyrygentd/dyrygentd.toml" in text
    configuration = home / ".config/dyrygentd/dyrygentd.toml"
    assert tomllib.loads(configuration.read_text()) == {}
    configuration.write_text("nodes_max = 3")
    assert _install("--user", "--write").exit_code == 0
    assert configuration.read_text() == "nodes_max = 3"


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


@pytest.mark.long
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


@pytest.mark.long
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
    command = [sys.executable, "-c", "from dyrygentd.cli.serve import helps; print(helps())"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1"}
    one = subprocess.run(command, capture_output=True, env=environ, timeout=60, check=True).stdout
    environ["PYTHONHASHSEED"] = "2"
    assert subprocess.run(command, capture_output=True, env=environ, timeout=60, check=True).stdout == one
