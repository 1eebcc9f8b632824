"""What of kombu and redis-py is built on that is no documented interface, and whether those that are installed have it.

kombu imports with any redis-py, and says that it cannot work with it when the first message is sent. What the public ways lack is
told where the others are used: `redis_push.collecting` and `redis_connections.Subscription`.
"""

from types import SimpleNamespace
from typing import Any, Final

from kombu.transport.redis import Transport

from dyrygentd import versions
from dyrygentd.errors import ConfigurationError

#: Of a channel of kombu's Redis transport; `dyrygentd.transport.redis_push.collecting` uses them.
USED: Final = (
    "_get_client",
    "_get_message_priority",
    "_put",
    "_put_fanout",
    "_q_for_pri",
    "deadletter_queue",
    "global_keyprefix",
    "pool",
    "priority_steps",
    "unacked_index_key",
    "unacked_key",
    "unacked_mutex_key",
)


def refuse_unusable_for(transport: Any) -> None:
    """Refuse a Redis transport as `refuse_unusable` does; others are not looked at. Raises `ConfigurationError`."""
    if isinstance(transport, Transport):
        refuse_unusable(type(transport).Channel)


def refuse_unusable(channel: Any = Transport.Channel) -> None:
    """Refuse a kombu with whose channels no message could be sent through Redis.

    Raises:
        ConfigurationError: It does not work with this redis-py, or has become another than the one that is known here.
    """
    missing = [name for name in USED if not hasattr(channel, name)]
    if missing:
        raise ConfigurationError(
            f"{versions.installed()}: this kombu cannot be used, its Redis transport has no `{missing[0]}`",
            next_step="`pip install 'kombu<5.8'` in the daemon's environment, or a newer dyrygentd",
        )
    try:
        # Its own word; neither version that is known connects here.
        channel._get_client(SimpleNamespace(global_keyprefix=""))
    except Exception as error:
        raise ConfigurationError(
            f"{versions.installed()} do not go together: {error}",
            next_step="`pip install -U redis 'celery[redis]'` where the daemon and where the workers run, then `pip check`",
        ) from error


#: Of an asyncio connection of redis-py; `dyrygentd.transport.redis_connections.Subscription` reads from it.
STREAM: Final = "_reader"


def refuse_unreadable(connection: Any) -> None:
    """Refuse a redis-py off whose connections, connected or not, no result could be read. Raises `ConfigurationError`."""
    if not hasattr(connection, STREAM):
        raise ConfigurationError(
            f"{versions.installed()}: this redis-py cannot be used, its connections have no `{STREAM}`",
            next_step="`pip install 'redis<9'` in the daemon's environment, or a newer dyrygentd",
        )
