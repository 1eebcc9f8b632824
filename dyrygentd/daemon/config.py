"""The daemon's configuration: defaults < TOML file < ``DYRYGENTD_*`` < credentials < flags, into one frozen object.

Each field of `Configuration` is the one definition of its TOML key, its variable, its flag, its help text and its default.

Long because all of them stand here, each once.
"""

import difflib
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, get_args

from dyrygentd.core.limits import Limits
from dyrygentd.core.values import INLINE_BYTES
from dyrygentd.daemon.kinds import DATABASE_WORDS, WORDS, LogAddresses, Names, Patterns, Sizes, WebAddress, masked, socket_mode_of
from dyrygentd.daemon.logs import FORMATS
from dyrygentd.daemon.systemd import credentials
from dyrygentd.errors import ConfigurationError
from dyrygentd.http.access import Access
from dyrygentd.http.limits import ConnectionLimits, HttpLimits
from dyrygentd.scheduler import SchedulerLimits
from dyrygentd.scheduler.log_links import MARGIN_S
from dyrygentd.store.choice import host_of, place_of
from dyrygentd.store.history import HISTORY_MAX
from dyrygentd.store.postgres.url import PostgresUrl

PREFIX: Final = "DYRYGENTD_"
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

#: Each is watched in the backend: more than that is a mistyped number, which would fill the broker before it is noticed.
_IN_FLIGHT_MAX: Final = 1_000_000
_SYSTEM_CONFIG: Final = Path("/etc/dyrygentd/dyrygentd.toml")


def _setting(
    default: Any, about: str, *, metavar: str = "", choices: tuple[str, ...] = (), is_secret: bool = False, is_live: bool = False
) -> Any:
    metadata = {"about": about, "metavar": metavar, "choices": choices, "is_secret": is_secret, "is_live": is_live}
    if isinstance(default, dict):
        return field(default_factory=type(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _live(default: Any, about: str, *, metavar: str = "", choices: tuple[str, ...] = ()) -> Any:
    """Define a setting that is taken up when the configuration is read again; every other one waits for a restart."""
    return _setting(default, about, metavar=metavar, choices=choices, is_live=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Everything that can be set. None means: see the help text of the field."""

    app: str | None = _setting(None, "The Celery app, for its broker, backend and routes.", metavar="MODULE:APP")
    broker: str | None = _setting(
        None, "Broker URL, instead of the app's. Without both, a server of our own is started.", metavar="URL", is_secret=True
    )
    result_backend: str | None = _setting(
        None, "Result backend URL, instead of the app's. Without both, a Redis broker is used.", metavar="URL", is_secret=True
    )
    database: Path | PostgresUrl | None = _setting(
        None, "Where the state of all workflows is: an SQLite file, or postgresql://USER@HOST/NAME.", metavar="PATH|URL"
    )
    host_name: str | None = _setting(
        None, "What this host is called where several share a database on PostgreSQL. By default its own name.", metavar="NAME"
    )
    role: str = _setting(
        "daemon",
        "What this process is where several share a database on PostgreSQL: a daemon leads, or stands by while another one does;"
        " a gateway never leads.",
        choices=("daemon", "gateway"),
    )
    socket: Path | None = _setting(None, "Unix socket for clients.", metavar="PATH")
    socket_mode: str = _setting("0660", "Permissions of the socket. Who may connect may run tasks.", metavar="OCTAL")
    admins: Names = _live(
        Names(), "Users, and groups with @, who control all workflows, beside root and the daemon's own user.", metavar="NAME,…"
    )
    submitters: Names = _live(
        Names(["*"]), "Those who submit workflows and control their own; * is all who may connect.", metavar="NAME,…"
    )
    readers: Names = _live(Names(["*"]), "Those who see all workflows; * is all who may connect.", metavar="NAME,…")
    tasks: Names = _live(Names(["*"]), "Names of tasks that may be submitted; * and ? fit anything.", metavar="PATTERN,…")
    tasks_denied: Names = _live(Names(), "Names of tasks that may not, whatever `tasks` says.", metavar="PATTERN,…")
    queues: Names = _live(
        Names(["*"]),
        "Queues, routing keys and exchanges that options may name; * and ? fit anything.",
        metavar="PATTERN,…",
    )
    queues_denied: Names = _live(Names(), "Those that they may not, whatever `queues` says.", metavar="PATTERN,…")
    redact: Patterns = _live(
        Patterns(),
        "What errors of tasks and shown arguments must not hold; what it finds, or the group in it, becomes ****. Passwords in"
        " URLs and values called password, secret, token and the like always do.",
        metavar="REGEX",
    )
    listen: str | None = _setting(None, "Serve /metrics, health and read-only views on TCP.", metavar="HOST:PORT")
    hosts: Names = _live(
        Names(),
        "Names in the Host header that are taken on TCP, beside this machine's own and addresses; * is any.",
        metavar="NAME,…",
    )
    grafana: WebAddress = _setting(WebAddress(), "Address of Grafana, to which the page links.", metavar="URL")
    logs_url: LogAddresses = _setting(
        LogAddresses(),
        "Where the log of a task is: an address with {task_id}, {start_ms} …, or a table of them by the beginning of its name.",
        metavar="URL",
    )
    logs_margin_s: float = _setting(MARGIN_S, "Seconds before and after an attempt that `logs_url` covers, too.")
    in_flight_max: int = _live(Limits().in_flight_max, "Tasks in the broker or at workers at one time.")
    pools: Sizes = _setting(
        Sizes(), "Tasks in flight of the nodes that name a pool; * and ? fit any name, each a pool.", metavar="NAME=SIZE,…"
    )
    queue_limits: Sizes = _setting(Sizes(), "Tasks in flight of a queue.", metavar="QUEUE=SIZE,…")
    late_watch_s: float = _setting(
        Limits().late_watch_s, "Seconds for which a task that was given up is followed and revoked again."
    )
    store_unrun_results: bool = _setting(
        SchedulerLimits().store_unrun_results,
        "Whether the result backend is told how tasks ended that never ran, so that whoever has their `AsyncResult` learns it.",
    )
    redeliveries_max: int = _setting(
        Limits().redeliveries_max,
        "Times that the broker may give a task out again before it is revoked and failed, if no policy says. 0: it is told only.",
    )
    lost_after_s: float = _setting(
        SchedulerLimits().lost_after_s, "Seconds after which a task in flight is looked for, in case that it was lost. 0: never."
    )
    lost_confirm_s: float = _setting(
        SchedulerLimits().lost_confirm_s,
        "Seconds for which a task must be found nowhere before it is taken for lost. Longer than workers take to reconnect.",
    )
    nodes_max: int = _live(HttpLimits().nodes_max, "Nodes of one workflow.")
    workflows_max: int = _setting(SchedulerLimits().workflows_max, "Unfinished workflows.")
    nodes_in_memory_max: int = _setting(SchedulerLimits().nodes_in_memory_max, "Nodes of all unfinished workflows.")
    node_bytes_max: int = _live(HttpLimits().node_bytes_max, "Bytes of one node's arguments, and of its payload or a workflow's.")
    body_bytes_max: int = _live(HttpLimits().body_bytes_max, "Bytes of one submission.")
    connections_max: int = _live(ConnectionLimits().connections_max, "Connections of clients at one time.")
    head_timeout_s: float = _live(ConnectionLimits().head_timeout_s, "Seconds in which the head of a request must arrive.")
    body_timeout_s: float = _live(HttpLimits().body_timeout_s, "Seconds in which the body of a request must arrive.")
    write_timeout_s: float = _live(ConnectionLimits().write_timeout_s, "Seconds for which a client may leave an answer unread.")
    value_bytes_max: int = _setting(Limits().value_bytes_max, "Bytes of one value passed from task to task.")
    value_store: str | None = _setting(
        None,
        "Where large values are kept: a directory, an address such as s3://BUCKET/PATH, or none: in memory and in the database."
        " By default the directory `values` beside the file of the database; beside one on PostgreSQL none.",
        metavar="PATH|URL|none",
        is_secret=True,
    )
    value_spill_bytes: int = _setting(
        SchedulerLimits().value_spill_bytes, "Bytes of a value beyond which it is kept in `value_store`."
    )
    value_store_bytes_max: int = _setting(
        SchedulerLimits().value_store_bytes_max,
        "Bytes of all values in `value_store`; what comes then is kept as if there were none.",
    )
    map_files: str | None = _setting(
        None,
        'Directory or address below which files of JSON lines are that maps go over: {"json_lines": NAME}. By default none.',
        metavar="PATH|URL",
        is_secret=True,
    )
    pickled_results: str = _setting(
        "data",
        "What is done with results that are pickles: read as data, which runs nothing, or unpickle, as the app's workers do.",
        choices=("data", "unpickle"),
    )
    workflow_values_bytes_max: int = _setting(
        Limits().workflow_values_bytes_max, "Bytes of the values that one workflow keeps for tasks to come."
    )
    values_bytes_max: int = _setting(Limits().values_bytes_max, "Bytes of the values that all workflows keep for tasks to come.")
    history_max: int = _setting(HISTORY_MAX, "Finished workflows to keep.")
    history_days: float = _live(0.0, "Days for which finished workflows are kept, as far as there is room. 0: no bound.")
    history_failed_days: float = _live(0.0, "Days for those that failed or were cancelled. 0: as `history_days`.")
    history_bytes_max: int = _live(
        0, "Bytes of the database in use, unfinished workflows included, beyond which the oldest finished ones go. 0: no bound."
    )
    drain_timeout_s: float = _live(5.0, "Seconds to wait, when stopping, for tasks in flight. None is lost if it is short.")
    log_level: str = _live("info", "What to log.", choices=LOG_LEVELS)
    log_format: str = _live("text", "How to log.", choices=FORMATS)

    def __post_init__(self) -> None:
        counts = ("connections_max", "in_flight_max", "nodes_max", "workflows_max", "nodes_in_memory_max")
        sizes = ("node_bytes_max", "body_bytes_max", "value_bytes_max", "workflow_values_bytes_max", "values_bytes_max")
        for name in (*counts, *sizes):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"'{name}' is {getattr(self, name)}, it must be 1 or more")
        if self.value_spill_bytes < INLINE_BYTES:
            raise ConfigurationError(f"'value_spill_bytes' is {self.value_spill_bytes}, it must be {INLINE_BYTES} or more")
        if self.in_flight_max > _IN_FLIGHT_MAX:
            raise ConfigurationError(f"'in_flight_max' is {self.in_flight_max}, it must be {_IN_FLIGHT_MAX} or less")
        for setting in settings():
            value = getattr(self, setting.name)
            if kind_of(setting) in (int, float) and not 0 <= value < math.inf:
                raise ConfigurationError(f"'{setting.name}' is {value}, it must be 0 or more")
        socket_mode_of(self.socket_mode)
        if self.host_name is not None:
            host_of(self.host_name)
        if self.role == "gateway" and isinstance(self.database, Path):
            raise ConfigurationError(
                f"'role' is gateway, and the database '{self.database}' is a file, which one process has",
                next_step="name a database on PostgreSQL, postgresql://USER@HOST/NAME, which the daemons have, too",
            )

    @property
    def mode(self) -> int:
        """Return the permissions of the socket."""
        return socket_mode_of(self.socket_mode)

    @property
    def scheduler_limits(self) -> SchedulerLimits:
        """Return the bounds of the scheduler."""
        return SchedulerLimits(
            engine=Limits(
                in_flight_max=self.in_flight_max,
                value_bytes_max=self.value_bytes_max,
                workflow_values_bytes_max=self.workflow_values_bytes_max,
                values_bytes_max=self.values_bytes_max,
                late_watch_s=self.late_watch_s,
                redeliveries_max=self.redeliveries_max,
            ),
            workflows_max=self.workflows_max,
            nodes_in_memory_max=self.nodes_in_memory_max,
            nodes_max=self.nodes_max,
            node_bytes_max=self.node_bytes_max,
            lost_after_s=self.lost_after_s,
            store_unrun_results=self.store_unrun_results,
            lost_confirm_s=self.lost_confirm_s,
            history_s=86400 * self.history_days,
            history_failed_s=86400 * self.history_failed_days,
            history_bytes_max=self.history_bytes_max,
            pools=self.pools,
            queue_limits=self.queue_limits,
            redact=self.redact,
            logs_url=self.logs_url,
            logs_margin_s=self.logs_margin_s,
            value_spill_bytes=self.value_spill_bytes,
            value_store_bytes_max=self.value_store_bytes_max,
        )

    @property
    def logging(self) -> tuple[str, str]:
        """Return what `logs.set_up` is given, at the start and when the configuration is read again."""
        return self.log_level, self.log_format

    @property
    def access(self) -> Access:
        """Return who may do what. Raises `ConfigurationError` if this host needs a name and has none that fits."""
        return Access(
            admins=self.admins,
            submitters=self.submitters,
            readers=self.readers,
            tasks=self.tasks,
            tasks_denied=self.tasks_denied,
            queues=self.queues,
            queues_denied=self.queues_denied,
            hosts=self.hosts,
            # A file has one host, where a number is enough, as it always was.
            host=host_of(self.host_name) if isinstance(self.database, PostgresUrl) else "",
        )

    @property
    def connection_limits(self) -> ConnectionLimits:
        """Return the bounds of connections."""
        return ConnectionLimits(
            connections_max=self.connections_max, head_timeout_s=self.head_timeout_s, write_timeout_s=self.write_timeout_s
        )

    @property
    def http_limits(self) -> HttpLimits:
        """Return the bounds of the HTTP side."""
        return HttpLimits(
            body_bytes_max=self.body_bytes_max,
            bodies_bytes_max=max(HttpLimits().bodies_bytes_max, self.body_bytes_max),
            nodes_max=self.nodes_max,
            node_bytes_max=self.node_bytes_max,
            body_timeout_s=self.body_timeout_s,
        )


class SettingOrigin(NamedTuple):
    """A value and where it comes from, for `check-config`."""

    name: str
    shown: str
    origin: str


class Loaded(NamedTuple):
    """The configuration and where each value of it comes from."""

    configuration: Configuration
    origins: list[SettingOrigin]

    def where_set(self, name: str) -> str:
        """Say where a value can be changed."""
        origin = next((each.origin for each in self.origins if each.name == name), "default")
        kind, _, file = origin.partition(" ")
        words = {
            "file": f"`{name}` in {file}",
            "environment": f"the variable {PREFIX}{name.upper()}",
            "flag": f"the flag --{name.replace('_', '-')}",
            "credential": f"the credential of `{name}`",
        }
        return words.get(kind, f"the default of `{name}`")


def settings() -> "tuple[Field[Any], ...]":
    """Return the fields of `Configuration`; their metadata has what `_setting` takes."""
    return fields(Configuration)


def kind_of(setting: "Field[Any]") -> type:
    """Return the type of a setting, without None."""
    kinds = [kind for kind in get_args(setting.type) if kind is not type(None)] or [setting.type]
    kind = kinds[0]
    assert isinstance(kind, type)
    return kind


def load(
    path: Path | None,
    flags: Mapping[str, Any],
    *,
    environ: Mapping[str, str] = os.environ,
    secrets: Mapping[str, str] = MappingProxyType({}),
    system: Path = _SYSTEM_CONFIG,
) -> Loaded:
    """Put the layers together.

    Args:
        path: The TOML file; by default ``$DYRYGENTD_CONFIG``, which with ``-`` in front need not exist, else that of the user
            (``~/.config/dyrygentd/dyrygentd.toml``; not for root and services), else the system's, if there.
        flags: ``{field name: value}`` of the flags that were given.
        secrets: ``{field name: value}`` of credentials beside those of the environment.

    Raises:
        ConfigurationError: A key, variable or value is wrong; the message names it.
    """
    path = path or default_file(environ, system=system)
    layers = [(f"file {path}", _read_file(path) if path else {}), ("environment", _read_environment(environ))]
    layers += [("credential", {**credentials(environ), **secrets}), ("flag", dict(flags))]
    values: dict[str, Any] = _default_paths(environ)
    origins = dict.fromkeys(values, "default")
    for origin, layer in layers:
        for name, value in layer.items():
            values[name] = _converted(name, value, origin)
            origins[name] = origin
    configuration = Configuration(**values)
    return Loaded(
        configuration,
        [
            SettingOrigin(
                setting.name, _shown(setting, getattr(configuration, setting.name)), origins.get(setting.name, "default")
            )
            for setting in settings()
        ],
    )


def default_file(environ: Mapping[str, str], *, system: Path = _SYSTEM_CONFIG) -> Path | None:
    """Return the TOML file that is read if none is given: ``$DYRYGENTD_CONFIG``, the user's own, the system's."""
    named = environ.get(f"{PREFIX}CONFIG", "")
    if named:
        path = Path(named.removeprefix("-"))
        return path if path.exists() or not named.startswith("-") else None
    own = _own_directory(environ, "XDG_CONFIG_HOME", ".config") / "dyrygentd.toml"
    is_a_users = os.geteuid() != 0 and "STATE_DIRECTORY" not in environ
    # Not `exists`, which raises where a home is closed to this user, as `runuser` leaves it in HOME.
    return next((path for path in ([own] if is_a_users else []) + [system] if os.access(path, os.F_OK)), None)


def _own_directory(environ: Mapping[str, str], variable: str, default: str) -> Path:
    home = Path(environ.get("HOME") or Path.home())
    return Path(environ.get(variable) or home / default) / "dyrygentd"


def _default_paths(environ: Mapping[str, str]) -> dict[str, Any]:
    """Choose directories: systemd's, else the system's for root, else the user's (XDG)."""
    is_root = os.geteuid() == 0
    state = Path("/var/lib/dyrygentd") if is_root else _own_state(environ)
    runtime = (
        Path("/run/dyrygentd")
        if is_root
        else Path(environ["XDG_RUNTIME_DIR"], "dyrygentd")
        if environ.get("XDG_RUNTIME_DIR")
        else state
    )
    # systemd names several directories separated by colons; the first is ours.
    state = Path(environ.get("STATE_DIRECTORY", "").partition(":")[0] or state)
    runtime = Path(environ.get("RUNTIME_DIRECTORY", "").partition(":")[0] or runtime)
    return {"database": state / "state.db", "socket": runtime / "dyrygentd.sock"}


def _own_state(environ: Mapping[str, str]) -> Path:
    """Return where a user's own daemon has its state, whoever asks: the service of the user, or a command in a shell."""
    state = _own_directory(environ, "XDG_STATE_HOME", ".local/state")
    # Earlier units had `StateDirectory=`, which systemd before 254 takes for this one; who has it there keeps it.
    earlier = _own_directory(environ, "XDG_CONFIG_HOME", ".config")
    return earlier if os.access(earlier / "state.db", os.F_OK) and not os.access(state / "state.db", os.F_OK) else state


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"cannot read '{path}': {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"'{path}' is not valid TOML: {error}") from error
    known = [setting.name for setting in settings()]
    for name in content:
        if name not in known:
            raise _unknown(f"key '{name}' in '{path}'", name, known)
    return content


def _read_environment(environ: Mapping[str, str]) -> dict[str, str]:
    known = {PREFIX + setting.name.upper(): setting.name for setting in settings()}
    found = {name: value for name, value in environ.items() if name.startswith(PREFIX) and name not in _OTHER_VARIABLES}
    for variable in found:
        if variable not in known and not variable.startswith(_TEST_PREFIX):
            raise _unknown(f"variable '{variable}'", variable, list(known))
    return {known[variable]: value for variable, value in found.items() if variable in known and value}


#: Variables of ours that are no settings.
_OTHER_VARIABLES: Final = frozenset({f"{PREFIX}CONFIG", f"{PREFIX}BROKER_UNIT", f"{PREFIX}HOST"})
_TEST_PREFIX: Final = f"{PREFIX}TEST_"


def _unknown(what: str, name: str, known: list[str]) -> ConfigurationError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else "`dyrygentd serve --help` lists what can be set"
    return ConfigurationError(f"{what} is unknown", next_step=hint)


def _converted(name: str, value: Any, origin: str) -> Any:
    setting = next(setting for setting in settings() if setting.name == name)
    kind = kind_of(setting)
    try:
        if isinstance(value, bool) is not (kind is bool) and not isinstance(value, str):
            raise ValueError
        if kind is bool and isinstance(value, str):
            value = _TRUTHS.get(value.lower(), value)
        if isinstance(value, str) and kind in (int, float):
            value = kind(value)
        if kind is float and isinstance(value, int):
            value = float(value)
        is_database = name == "database" and isinstance(value, str)
        read: Any = place_of if is_database else getattr(kind, "read", None)
        if read is not None:
            try:
                value = read(value)
            except ValueError as error:
                reason, words = f": {error}" if str(error) else f" is {value!r}", DATABASE_WORDS if is_database else WORDS[kind]
                raise ConfigurationError(f"'{name}' ({origin}){reason}; it must be {words}") from None
        if kind is Path and isinstance(value, str):
            value = Path(value).expanduser()
        if not isinstance(value, kind | PostgresUrl):
            raise ValueError
    except ValueError:
        raise ConfigurationError(f"'{name}' ({origin}) is {value!r}, it must be {WORDS[kind]}") from None
    choices = setting.metadata["choices"]
    if choices and value not in choices:
        raise ConfigurationError(f"'{name}' ({origin}) is '{value}', it must be one of {', '.join(choices)}")
    return value


#: As variables and flags have them.
_TRUTHS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _shown(setting: "Field[Any]", value: Any) -> str:
    if value is None:
        return ""
    return masked(value) if setting.metadata["is_secret"] else str(value)
