"""Where a broker is, in a form that two ways to write the same URL share, and that is nobody's secret."""

from typing import Any, Final
from urllib.parse import urlsplit

_TRANSPORTS: Final = {"rediss": "redis", "sentinels": "sentinel", "pyamqp": "amqp", "librabbitmq": "amqp", "amqps": "amqp"}
_PORTS: Final = {"redis": 6379, "sentinel": 26379, "amqp": 5672}
_DATABASES: Final = ("", "/", "0", "/0")


def address_of(connection: Any) -> str:
    """Return the address of a kombu connection: transport, hosts, database and prefix, without user, password and TLS."""
    options = dict(connection.transport_options or {})
    urls = connection.alt or [connection.as_uri(include_password=False)]
    transport = _TRANSPORTS.get(connection.transport_cls, str(connection.transport_cls))
    if str(connection.hostname or "").startswith("socket://"):
        # kombu keeps path and database of a socket's URL together.
        address = f"redis+{connection.hostname}"
    elif len(urls) > 1:
        address = ";".join(sorted(_hosts(url, transport) for url in urls))
    else:
        address = f"{transport}://{connection.hostname or 'localhost'}:{connection.port or _PORTS.get(transport, '')}"
    database = str(connection.virtual_host or "")
    named = "" if transport in ("redis", "sentinel") and database in _DATABASES else f"/{database.lstrip('/')}"
    prefix = options.get("global_keyprefix", "")
    return (
        address
        + named
        + (f" (master {options['master_name']})" if options.get("master_name") else "")
        + (f" (prefix {prefix})" if prefix else "")
    )


def _hosts(url: str, transport: str) -> str:
    """Return transport, host and port of one of several URLs."""
    parts = urlsplit(url)
    return f"{transport}://{parts.hostname or 'localhost'}:{parts.port or _PORTS.get(transport, '')}"
