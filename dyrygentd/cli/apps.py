"""The Celery app that a command is given with --app: loaded as the daemon and a worker load it."""

from typing import Any

from dyrygentd.cli.session import USAGE, fail
from dyrygentd.errors import ConfigurationError


def loaded(name: str) -> Any:
    """Import the app and its tasks; end the command with the reason if that fails."""
    from dyrygentd.transport.app import load_user_app

    try:
        return load_user_app(name)
    except ConfigurationError as error:
        fail(error.message, next_step=error.next_step, status=USAGE)


def asked(app: Any) -> Any:
    """Return what the app's workers have. Raises `BrokerUnavailable`."""
    from dyrygentd.transport.workers import ask_fleet

    return ask_fleet(app)
