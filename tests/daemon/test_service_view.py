"""`check-config` as the installed service reads its configuration: units, drop-ins, environment files, credentials."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dyrygentd.daemon import config
from dyrygentd.daemon.service_view import unit_of, view_of
from dyrygentd.daemon.unit_files import unit_files
from tests.support.forking import run_to_end


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A system on which the units that `install-units` writes are installed."""
    root = tmp_path / "system"
    for path, text in unit_files(for_user=False).items():
        file = root / "usr/local" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for directory in ("etc/dyrygentd", "etc/credstore", "etc/systemd/system/dyrygentd.service.d"):
        (root / directory).mkdir(parents=True)
    return root


def test_nothing_is_installed(tmp_path: Path) -> None:
    """Then there is nothing that a service would read."""
    assert unit_of(None, tmp_path) is None
    assert view_of(None, tmp_path) is None
    assert view_of("gra1", tmp_path) is None


def test_service_reads_its_own_files(system: Path) -> None:
    """Variables come from its environment file, secrets from the credential store, directories and user from its unit."""
    (system / "etc/dyrygentd/environment").write_text("# ours\nPYTHONPATH=/srv/shop\nDYRYGENTD_APP='shop:app'\n")
    (system / "etc/credstore/dyrygentd.broker-url").write_text("redis://:pw@broker/0\n")
    view = view_of(None, system)
    assert view is not None
    assert view.environ["PYTHONPATH"] == "/srv/shop"
    assert view.environ["DYRYGENTD_APP"] == "shop:app"
    assert view.environ["STATE_DIRECTORY"] == str(system / "var/lib/dyrygentd")
    assert view.environ["RUNTIME_DIRECTORY"] == str(system / "run/dyrygentd")
    assert (view.secrets, view.user, view.arguments) == ({"broker": "redis://:pw@broker/0"}, "dyrygent", [])
    assert view.unseen == []
    assert view.looked_at[1:] == [
        str(system / "etc/dyrygentd/environment"),
        f"credential broker-url ({system}/etc/credstore/dyrygentd.broker-url)",
    ]
    (system / "empty.toml").write_text("")
    loaded = config.load(system / "empty.toml", {}, environ=view.environ, secrets=view.secrets)
    origins = {each.name: (each.shown, each.origin) for each in loaded.origins}
    assert origins["broker"] == ("redis://:****@broker/0", "credential")
    assert origins["app"] == ("shop:app", "environment")
    assert loaded.configuration.database == system / "var/lib/dyrygentd/state.db"


def test_instance_reads_its_own(system: Path) -> None:
    """Each instance has a configuration, an environment, secrets and directories of its name."""
    (system / "etc/dyrygentd/gra1.environment").write_text("DYRYGENTD_IN_FLIGHT_MAX=7\n")
    (system / "etc/credstore/dyrygentd@gra1.backend-url").write_text("redis://store/1")
    (system / "etc/credstore/dyrygentd@rbx.backend-url").write_text("redis://other/1")
    view = view_of("gra1", system)
    assert view is not None
    assert view.environ["DYRYGENTD_CONFIG"] == "/etc/dyrygentd/gra1.toml"
    assert view.environ["DYRYGENTD_IN_FLIGHT_MAX"] == "7"
    assert view.environ["STATE_DIRECTORY"] == str(system / "var/lib/dyrygentd/gra1")
    assert view.secrets == {"result_backend": "redis://store/1"}
    assert view.unit == "dyrygentd@gra1.service"


def test_drop_ins_add_and_take_back(system: Path) -> None:
    """Their order is that of their names; an empty setting takes back what was said before; the administrator's goes first."""
    drop_ins = system / "etc/systemd/system/dyrygentd.service.d"
    vendor = system / "usr/local/lib/systemd/system/dyrygentd.service.d"
    vendor.mkdir()
    (vendor / "10-app.conf").write_text("[Service]\nEnvironment=DYRYGENTD_APP=vendor:app\n")
    (drop_ins / "10-app.conf").write_text('[Service]\nEnvironment="DYRYGENTD_APP=shop:app" X=1\nUser=shop\n')
    (drop_ins / "20-start.conf").write_text(
        "[Unit]\nEnvironment=NOT=HERE\n[Service]\nExecStart=\nExecStart=/opt/x/dyrygentd serve \\\n  --in-flight-max 9\n"
        "SetCredential=broker-url:redis://set/0\nLoadCredential=\nEnvironmentFile=\nEnvironmentFile=/etc/dyrygentd/none\n"
    )
    view = view_of(None, system)
    assert view is not None
    assert view.environ["DYRYGENTD_APP"] == "shop:app"
    assert "NOT" not in view.environ
    assert view.arguments == ["--in-flight-max", "9"]
    assert (view.user, view.secrets) == ("shop", {"broker": "redis://set/0"})
    assert view.unseen == [f"'{system}/etc/dyrygentd/none', which is not there"]


def test_encrypted_credential_is_not_passed_over(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be decrypted here is said: the service's broker is then another one than is looked at."""
    (system / "etc/credstore.encrypted").mkdir()
    (system / "etc/credstore.encrypted/dyrygentd.broker-url").write_text("Whatever")
    drop_in = system / "etc/systemd/system/dyrygentd.service.d/secret.conf"
    drop_in.write_text("[Service]\nLoadCredentialEncrypted=broker-url:dyrygentd.broker-url\n")
    monkeypatch.setenv("PATH", "")
    view = view_of(None, system)
    assert view is not None
    assert view.unseen == ["the credential 'broker-url', which is encrypted: there is no systemd-creds here"]


def _check(root: Path, *arguments: str) -> tuple[int, dict[str, object]]:
    command = [sys.executable, "-m", "dyrygentd", "check-config", "--json", "--root", str(root), *arguments]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DYRYGENTD_")}
    done = run_to_end(command, environment=environ)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="others do not see what the system's service reads")
def test_root_checks_what_the_service_reads(system: Path) -> None:
    """A wrong broker in the credential store is found, which this shell knows nothing of; --here looks at the shell's own."""
    (system / "etc/credstore/dyrygentd.broker-url").write_text("redis://127.0.0.1:1/0")
    (system / "etc/systemd/system/dyrygentd.service.d/user.conf").write_text("[Service]\nUser=\nUser=root\n")
    status, rows = _check(system, "--online")
    assert status == 1
    tried = {row["what"]: row for row in rows["online"]}  # type: ignore[attr-defined]
    assert "Connection refused" in tried["broker"]["words"]
    assert rows["read"]["unit"] == "dyrygentd.service"  # type: ignore[index]
    assert rows["database"] == {"value": str(system / "var/lib/dyrygentd/state.db"), "origin": "default"}
    # A directory that systemd makes at the start need not be there.
    assert tried["database"]["is_well"], tried
    _, rows = _check(system, "--here")
    assert (rows["read"]["unit"], rows["broker"]["value"]) == ("", "")  # type: ignore[index]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_user_that_cannot_be_tried_is_told(system: Path) -> None:
    """What was not looked at with the service's rights is said, and is no success."""
    (system / "etc/systemd/system/dyrygentd.service.d/user.conf").write_text("[Service]\nUser=nobody-has-this-name\n")
    status, rows = _check(system, "--online")
    assert status == 1
    assert any("what user 'nobody-has-this-name' may do" in each for each in rows["read"]["unseen"])  # type: ignore[index]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_root_imports_nothing_that_the_service_can_write(system: Path) -> None:
    """Where the service's user cannot be had, the app is not imported: its directory is that user's, and this is root."""
    state, run = system / "var/lib/dyrygentd", system / "run.txt"
    state.mkdir(parents=True)
    for name in ("shop", "celery"):
        (state / f"{name}.py").write_text(f"open({str(run)!r}, 'w')")
    (system / "etc/dyrygentd/environment").write_text(f"DYRYGENTD_APP=shop:app\nPYTHONPATH={state}\n")
    (system / "etc/systemd/system/dyrygentd.service.d/user.conf").write_text("[Service]\nUser=nobody-has-this-name\n")
    status, rows = _check(system, "--online")
    tried = {row["what"]: row for row in rows["online"]}  # type: ignore[attr-defined]
    assert (status, tried["app"]["is_well"]) == (1, False)
    assert "'shop:app' is not imported" in tried["app"]["words"]
    assert not run.exists()


def test_instance_that_is_not_installed(tmp_path: Path) -> None:
    """It is an error of usage, and not a check of something else."""
    command = [sys.executable, "-m", "dyrygentd", "check-config", "--root", str(tmp_path), "--instance", "gra1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "no dyrygentd@.service is installed" in done.stderr


def test_unreadable_credential(system: Path) -> None:
    """Whoever may not read the service's secrets is told which were not seen."""
    secret = system / "etc/credstore/dyrygentd.broker-url"
    secret.write_text("redis://broker/0")
    secret.chmod(0)
    view = view_of(None, system)
    assert view is not None
    if os.geteuid() == 0:
        assert view.secrets == {"broker": "redis://broker/0"}
    else:
        assert view.unseen == [f"the credential 'broker-url', in '{secret}', which this user may not read"]
