"""The example of a configuration file: every key with its default, made from the settings themselves, so that it cannot drift."""

import textwrap
from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Final

from dyrygentd.daemon import config

_WIDTH: Final = 100
_HEAD: Final = """\
# dyrygentd's configuration: /etc/dyrygentd/dyrygentd.toml, or what --config or $DYRYGENTD_CONFIG names.
#
# Every key there is, with its default. Each is a flag and a variable too (--in-flight-max, DYRYGENTD_IN_FLIGHT_MAX), and those
# come before what stands here; `dyrygentd check-config` shows which value came from where. URLs with passwords are better kept
# in /etc/credstore, see dyrygentd.service.
"""
#: Of what has no default, or one that depends on who runs the daemon.
_EXAMPLES: Final = {
    "app": "tasks:app",
    "broker": "redis://localhost:6379/0",
    "result_backend": "redis://localhost:6379/1",
    "database": "/var/lib/dyrygentd/state.db",
    "socket": "/run/dyrygentd/dyrygentd.sock",
    "listen": "127.0.0.1:9465",
}


def example() -> str:
    """Return the file; every key is a comment, so that as it is it changes nothing."""
    parts = [_HEAD]
    for setting in config.settings():
        about = textwrap.wrap(str(setting.metadata["about"]), _WIDTH)
        if setting.metadata["choices"]:
            about.append("One of " + ", ".join(setting.metadata["choices"]) + ".")
        default = setting.default_factory() if setting.default_factory is not MISSING else setting.default
        if default is None:
            about.append("By default not set; for example:" if setting.name not in ("database", "socket") else "For the service:")
            default = _EXAMPLES.get(setting.name, setting.metadata["metavar"])
        parts.append("\n".join([*(f"# {line}" for line in about), f"#{setting.name} = {_toml(default)}\n"]))
    return "\n".join(parts)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(str(name))} = {_toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    text = str(value if not isinstance(value, Path) else value.as_posix())
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
