"""Configuration: layers, conversions, and errors that name the key."""

import json
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from dyrygentd.daemon import config
from dyrygentd.daemon.kinds import masked
from dyrygentd.errors import ConfigurationError


def _load(tmp_path: Path, *, toml: str = "", environ: dict[str, str] | None = None, **flags: Any) -> config.Loaded:
    path = tmp_path / "dyrygentd.toml"
    path.write_text(toml)
    return config.load(path, flags, environ={"HOME": str(tmp_path), **(environ or {})})


def test_later_layers_win(tmp_path: Path) -> None:
    """A flag beats the environment, which beats the file, which beats the default; each value knows where it came from."""
    loaded = _load(
        tmp_path,
        toml="in_flight_max = 1\nnodes_max = 2\nworkflows_max = 3",
        environ={"DYRYGENTD_NODES_MAX": "4", "DYRYGENTD_WORKFLOWS_MAX": "5"},
        workflows_max=6,
    )
    configuration = loaded.configuration
    assert (configuration.in_flight_max, configuration.nodes_max, configuration.workflows_max) == (1, 4, 6)
    origins = {origin.name: origin.origin for origin in loaded.origins}
    assert origins["in_flight_max"].startswith("file ")
    assert (origins["nodes_max"], origins["workflows_max"], origins["listen"]) == ("environment", "flag", "default")


def test_limits_reach_their_owners(tmp_path: Path) -> None:
    """A configured bound is the one that is applied."""
    configuration = _load(tmp_path, in_flight_max=7, value_bytes_max=8, body_bytes_max=9, nodes_max=10).configuration
    assert configuration.scheduler_limits.engine.in_flight_max == 7
    assert configuration.scheduler_limits.engine.value_bytes_max == 8
    assert (configuration.http_limits.body_bytes_max, configuration.http_limits.nodes_max) == (9, 10)


@pytest.mark.parametrize(
    ("toml", "environ", "flags", "complaint", "next_step"),
    [
        ("in_flight_mx = 1", {}, {}, "key 'in_flight_mx' in", "did you mean 'in_flight_max'?"),
        ("zzz = 1", {}, {}, "key 'zzz' in", "`dyrygentd serve --help` lists"),
        ("in_flight_max = 'many'", {}, {}, "'in_flight_max' (file", ""),
        ("in_flight_max = true", {}, {}, "it must be a whole number", ""),
        ("in_flight_max = 0", {}, {}, "it must be 1 or more", ""),
        ("in_flight_max = 1000001", {}, {}, "'in_flight_max' is 1000001, it must be 1000000 or less", ""),
        ("drain_timeout_s = -1", {}, {}, "it must be 0 or more", ""),
        ("history_days = nan", {}, {}, "'history_days' is nan, it must be 0 or more", ""),
        ("drain_timeout_s = inf", {}, {}, "'drain_timeout_s' is inf", ""),
        ("head_timeout_s = -1", {}, {}, "'head_timeout_s' is -1", ""),
        ("redact = ['(']", {}, {}, "'(' is no regular expression", ""),
        ("grafana = 'javascript:alert(1)'", {}, {}, "must be an address that begins with http:// or https://", ""),
        ("grafana = 'https://g/\"x y'", {}, {}, "must be an address", ""),
        (
            "logs_url = 'https://logs/{taskid}'",
            {},
            {},
            "'https://logs/{taskid}' asks for '{taskid}', which is none of task_id",
            "",
        ),
        ("[logs_url]\n'a.' = 'logs/{node}'", {}, {}, "'logs/{node}' for a. is no address", ""),
        ("logs_url = 7", {}, {}, "must be an address that begins with http:// or https://, or a table", ""),
        ("[logs_url]\na = 7", {}, {}, "must be an address that begins with http:// or https://, or a table", ""),
        ("logs_margin_s = -1", {}, {}, "it must be 0 or more", ""),
        ("redact = ['x*']", {}, {}, "'x*' finds the empty text", ""),
        ("not toml", {}, {}, "is not valid TOML", ""),
        ("", {"DYRYGENTD_IN_FLIGHT": "1"}, {}, "variable 'DYRYGENTD_IN_FLIGHT' is unknown", "did you mean"),
        ("", {"DYRYGENTD_LOG_LEVEL": "loud"}, {}, "must be one of debug, info, warning, error", ""),
        ("", {}, {"socket_mode": "0999"}, "'socket_mode' is '0999'", ""),
        ("broker = 1", {}, {}, "it must be a text", ""),
        ("late_watch_s = -1", {}, {}, "'late_watch_s' is -1", ""),
        ("pools = 3", {}, {}, "it must be a table of names and sizes", ""),
        ("[pools]\ndrain = 0", {}, {}, "'pools' (file", ""),
        ("[pools]\ndrain = 0", {}, {}, "the size of 'drain' is 0; it must be a table", ""),
        ("[pools]\ndrain = true", {}, {}, "the size of 'drain' is True", ""),
        ("[queue_limits]\n'' = 1", {}, {}, "'' is no name", ""),
        ("", {"DYRYGENTD_POOLS": "drain"}, {}, "'pools' (environment): 'drain' has no size", ""),
        ("", {"DYRYGENTD_POOLS": "drain=x"}, {}, "the size of 'drain' is 'x'", ""),
        ("", {"DYRYGENTD_POOLS": "a=1,a=2"}, {}, "'a' stands there twice", ""),
        ("", {}, {"queue_limits": "io=0"}, "'queue_limits' (flag): the size of 'io' is 0", ""),
    ],
)
def test_errors(
    tmp_path: Path, toml: str, environ: dict[str, str], flags: dict[str, Any], complaint: str, next_step: str
) -> None:
    """What is wrong is named, with a suggestion where there is one."""
    with pytest.raises(ConfigurationError) as caught:
        _load(tmp_path, toml=toml, environ=environ, **flags)
    assert complaint in str(caught.value)
    assert next_step in caught.value.next_step


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A file that was asked for and is not there is an error, not a silent default."""
    with pytest.raises(ConfigurationError, match=r"cannot read '.*nothing\.toml'"):
        config.load(tmp_path / "nothing.toml", {}, environ={})


def test_directories_of_systemd_win(tmp_path: Path) -> None:
    """Under systemd the unit's directories are used, so that one binary serves several instances."""
    environ = {"STATE_DIRECTORY": "/var/lib/d@1:/other", "RUNTIME_DIRECTORY": "/run/d@1"}
    configuration = _load(tmp_path, environ=environ).configuration
    assert (configuration.database, configuration.socket) == (Path("/var/lib/d@1/state.db"), Path("/run/d@1/dyrygentd.sock"))


@pytest.mark.parametrize(
    "url",
    [
        "postgress://dy:s3cret@h/ops",
        "db+postgresql://dy:s3cret@h/ops",
        "sqlite:///state.db",
        "postgresql://dy:s3cret@h/d?schema=Ops",
    ],
)
def test_database_is_no_other_url(tmp_path: Path, url: str) -> None:
    """A URL with a slip would be a file of its own beside the database that the other hosts share; its password is not shown."""
    with pytest.raises(ConfigurationError, match="it must be a path, or postgresql://USER@HOST/NAME") as refused:
        _load(tmp_path, database=url)
    assert "s3cret" not in str(refused.value)


def test_home_that_cannot_be_looked_into(as_user: None) -> None:
    """`runuser` and the like leave HOME as it was, which may be another's and closed: nothing is there for this user."""
    environ = {"HOME": f"/{'x' * 300}", "DYRYGENTD_DATABASE": "state.db"}
    assert config.load(None, {}, environ=environ, system=Path("/nowhere.toml")).configuration.database == Path("state.db")


def test_secrets_are_masked(tmp_path: Path) -> None:
    """A password in a URL is never shown."""
    loaded = _load(tmp_path, broker="redis://user:secret@host:1/0", result_backend="redis://host/0")
    shown = {origin.name: origin.shown for origin in loaded.origins}
    assert (shown["broker"], shown["result_backend"]) == ("redis://user:****@host:1/0", "redis://host/0")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sentinel://:s1@h:1;sentinel://:s2@h:2", "sentinel://:****@h:1;sentinel://:****@h:2"),
        ("redis://:a;b@h", "redis://:****@h"),
        ("redis://:x@[::1", "(a URL that cannot be read)"),
    ],
)
def test_every_password_is_masked(url: str, shown: str) -> None:
    """Of several URLs, of odd ones, and of what is none."""
    assert masked(url) == shown


@pytest.mark.parametrize(
    ("environ", "host"),
    [
        ({}, ""),
        ({"DYRYGENTD_HOST_NAME": "app1"}, ""),
        ({"DYRYGENTD_DATABASE": "postgresql://db/ops"}, "kernel-says"),
        ({"DYRYGENTD_DATABASE": "postgresql://db/ops", "DYRYGENTD_HOST_NAME": "app1.example"}, "app1.example"),
    ],
)
def test_users_are_of_a_host_where_several_share_a_database(
    environ: dict[str, str], host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users of a file are numbers; on PostgreSQL they are of this host, as it is called or as its kernel calls it."""
    monkeypatch.setattr(socket, "gethostname", lambda: "kernel-says")
    assert _load(tmp_path, environ=environ).configuration.access.host == host


@pytest.mark.parametrize("name", ["ann@app1", "app 1", "", "-", "a" * 256])
def test_host_needs_a_name_that_fits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that would make two users one is refused, whoever gave it."""
    with pytest.raises(ConfigurationError, match="'host_name' is"):
        _load(tmp_path, toml=f"host_name = '{name}'")
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    on_postgres = _load(tmp_path, environ={"DYRYGENTD_DATABASE": "postgresql://db/ops"}).configuration
    with pytest.raises(ConfigurationError, match="the name of this host is") as refused:
        _ = on_postgres.access
    assert "`host_name`" in refused.value.next_step


def test_pools_and_queue_limits(tmp_path: Path) -> None:
    """Sizes come as a table or as text, reach the scheduler, and are shown as text that can be pasted back."""
    loaded = _load(tmp_path, toml="[pools]\n'drain@*' = 2\nio = 4", environ={"DYRYGENTD_QUEUE_LIMITS": " narrow = 2 , a=b=3,"})
    limits = loaded.configuration.scheduler_limits
    assert limits.pools == {"drain@*": 2, "io": 4}
    assert limits.queue_limits == {"narrow": 2, "a=b": 3}
    shown = {origin.name: (origin.shown, origin.origin) for origin in loaded.origins}
    assert shown["pools"][0] == "drain@*=2,io=4"
    assert shown["queue_limits"] == ("narrow=2,a=b=3", "environment")
    again = _load(tmp_path, pools=shown["pools"][0], queue_limits=shown["queue_limits"][0]).configuration
    assert again.pools == loaded.configuration.pools
    assert _load(tmp_path, late_watch_s="60").configuration.scheduler_limits.engine.late_watch_s == 60.0


@pytest.mark.parametrize(("text", "expected"), [("false", False), ("NO", False), ("0", False), ("true", True), ("yes", True)])
def test_truths(text: str, expected: bool) -> None:
    """A setting that is true or false is so in a file, and as text in a variable; anything else is refused by name."""
    variable = "DYRYGENTD_STORE_UNRUN_RESULTS"
    assert config.load(None, {}, environ={variable: text}).configuration.store_unrun_results is expected
    with pytest.raises(ConfigurationError, match="it must be true or false"):
        config.load(None, {}, environ={variable: "perhaps"})


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be somebody who is not root."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)


def test_user_has_a_configuration_of_their_own(tmp_path: Path, as_user: None) -> None:
    """A user's file comes before the system's, and is not looked at by a service of the system."""
    system, own = tmp_path / "etc.toml", tmp_path / ".config/dyrygentd/dyrygentd.toml"
    environ = {"HOME": str(tmp_path)}
    assert config.load(None, {}, environ=environ, system=system).configuration.nodes_max != 1
    system.write_text("nodes_max = 1")
    assert config.load(None, {}, environ=environ, system=system).configuration.nodes_max == 1
    own.parent.mkdir(parents=True)
    own.write_text("nodes_max = 2")
    assert config.load(None, {}, environ=environ, system=system).configuration.nodes_max == 2
    service = {**environ, "STATE_DIRECTORY": str(tmp_path / "state")}
    assert config.load(None, {}, environ=service, system=system).configuration.nodes_max == 1


def test_named_configuration_may_be_absent(tmp_path: Path) -> None:
    """With a `-` in front the variable names a file that need not exist; then there is none, and not the system's."""
    system, named = tmp_path / "etc.toml", tmp_path / "own.toml"
    system.write_text("nodes_max = 1")
    environ = {"HOME": str(tmp_path), "DYRYGENTD_CONFIG": f"-{named}"}
    assert config.load(None, {}, environ=environ, system=system).configuration.nodes_max != 1
    named.write_text("nodes_max = 2")
    assert config.load(None, {}, environ=environ, system=system).configuration.nodes_max == 2
    with pytest.raises(ConfigurationError, match="cannot read"):
        config.load(None, {}, environ={**environ, "DYRYGENTD_CONFIG": str(tmp_path / "none.toml")}, system=system)


def test_state_of_a_user_is_one_place(tmp_path: Path, as_user: None) -> None:
    """The user's service and the commands in a shell agree; a database that an earlier unit has made elsewhere is found there."""
    environ = {"HOME": str(tmp_path)}
    state, earlier = tmp_path / ".local/state/dyrygentd", tmp_path / ".config/dyrygentd"
    assert config.load(None, {}, environ=environ).configuration.database == state / "state.db"
    earlier.mkdir(parents=True)
    assert config.load(None, {}, environ=environ).configuration.database == state / "state.db"
    (earlier / "state.db").touch()
    assert config.load(None, {}, environ=environ).configuration.database == earlier / "state.db"
    state.mkdir(parents=True)
    (state / "state.db").touch()
    assert config.load(None, {}, environ=environ).configuration.database == state / "state.db"


def test_addresses_of_logs_have_two_forms(tmp_path: Path) -> None:
    """One for all tasks, or one for each beginning of their names; as text one a line, and shown as it is read."""
    one, two = "https://logs.example/?q={task_id}&a=b", "http://other:3000/{node}"
    given = _load(tmp_path, toml=f"logs_url = '{one}'\nlogs_margin_s = 5").configuration
    assert given.logs_url == {"": one}
    assert (given.scheduler_limits.logs_url, given.scheduler_limits.logs_margin_s) == ({"": one}, 5)
    table = _load(tmp_path, toml=f"[logs_url]\n'' = '{one}'\n'billing.' = '{two}'").configuration.logs_url
    assert table == {"": one, "billing.": two}
    assert _load(tmp_path, environ={"DYRYGENTD_LOGS_URL": str(table)}).configuration.logs_url == table
    assert not _load(tmp_path).configuration.logs_url


def test_the_guides_addresses_of_logs_work(tmp_path: Path) -> None:
    """They are taken as they stand there, and what Grafana and Kibana decode of them is whole, whatever a value is."""
    guide = (Path(config.__file__).parent / "README.md").read_text()
    blocks = [block for block in re.findall(r"```toml\n(.*?)```", guide, re.DOTALL) if "logs_url" in block]
    loki, kibana = (_load(tmp_path, toml=block).configuration.logs_url[""] for block in blocks)
    filled = re.sub(r"\{\w+\}", "x", loki)
    panes = json.loads(parse_qs(urlsplit(filled).query)["panes"][0])
    assert panes["a"]["queries"][0]["expr"] == '{job="celery"} |= `x`'
    assert panes["a"]["range"] == {"from": "x", "to": "x"}
    state = unquote(urlsplit(re.sub(r"\{\w+\}", "x", kibana)).fragment)
    assert state == "/?_g=(time:(from:'x',to:'x'))&_a=(index:celery,query:(language:kuery,query:'\"x\"'))"
