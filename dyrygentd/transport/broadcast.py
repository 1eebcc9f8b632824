"""Remote control of Celery's workers, without Celery's endless retries: commands out, and the answers within a deadline."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from kombu.messaging import Consumer
from kombu.transport.redis import Transport as RedisTransport
from kombu.utils.json import dumps

from dyrygentd.transport.results import without_pickle

Answers = dict[str, Any]
"""``{worker: answer}``; a worker that could not carry out the command is left out."""


class PublishesOnce:
    """A producer for kombu's mailbox, which asks for endless retries."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer

    def publish(self, body: Any, **options: Any) -> None:
        """Publish, and raise whatever goes wrong."""
        self._producer.publish(body, **{**options, "retry": False})


def counting(transport: Any) -> Any:
    """Derive a kombu Redis transport whose channel knows how many subscribers got the last broadcast.

    Redis tells, and kombu does not pass it on. When as many have answered, nobody need be waited for. What is more, the channel
    never moves messages that workers hold for long back into their queues, as every kombu consumer does that listens: it would
    follow this process's `visibility_timeout`, which need not be that of the workers.
    """

    class CarefulQoS(transport.Channel.QoS):
        def restore_visible(self, *args: Any, **kwargs: Any) -> None:
            pass

    class CountingChannel(transport.Channel):
        QoS = CarefulQoS
        receivers: int | None = None

        def _put_fanout(self, exchange: str, message: Any, routing_key: str, **_: Any) -> None:
            with self.conn_or_acquire() as client:
                self.receivers = int(client.publish(self._get_publish_topic(exchange, routing_key), dumps(message)))

    class CountingTransport(transport):
        Channel = CountingChannel

    return CountingTransport


@contextmanager
def connected(app: Any, *, timeout_s: float) -> Iterator[tuple[Any, Any, bool]]:
    """Connect for a few questions; yield the connection, a producer, and whether it is Redis.

    Args:
        timeout_s: For each of what is written to, or read from, the broker.
    """
    connection = app.connection_for_write()
    is_redis = issubclass(connection.get_transport_cls(), RedisTransport)
    options = dict(connection.transport_options or {})
    if is_redis:
        options |= {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        connection.transport_cls = counting(connection.get_transport_cls())
    else:
        options |= {"read_timeout": timeout_s, "write_timeout": timeout_s, "connect_timeout": timeout_s}
    connection.transport_options = options
    connection.connect_timeout = timeout_s
    try:
        yield connection, app.amqp.Producer(connection.channel(), auto_declare=False), is_redis
    finally:
        with suppress(Exception):
            connection.release()


def url_of(connection: Any) -> str:
    """Return a broker's URL without its password: kombu shows asterisks also where there is none."""
    url = str(connection.as_uri(include_password=False))
    return url if connection.password else url.replace(":**@", "@").replace("//@", "//")


def ask_workers(
    app: Any, connection: Any, producer: Any, commands: Mapping[str, Mapping[str, Any]], *, timeout_s: float
) -> tuple[dict[str, Answers], int | None]:
    """Send all commands at once and collect what is answered in time; blocking.

    Returns:
        ``{command: answers}``, and how many workers got the last command, if the broker told.
    """
    channel = producer.channel
    mailbox = app.control.mailbox(connection)
    answers: dict[str, Answers] = {command: {} for command in commands}
    replied: set[tuple[str, str]] = set()
    tickets = {str(uuid4()): command for command in commands}

    def take(body: Any, message: Any) -> None:
        command = tickets.get(message.headers.get("ticket"))
        if command is not None and isinstance(body, dict):
            for worker, answer in body.items():
                replied.add((command, worker))
                if not (isinstance(answer, dict) and "error" in answer):
                    answers[command][worker] = answer

    queue = mailbox.reply_queue
    deadline = time.monotonic() + timeout_s
    try:
        with Consumer(channel, [queue], accept=without_pickle(mailbox.accept), callbacks=[take], no_ack=True):
            for ticket, command in tickets.items():
                once = PublishesOnce(producer)
                arguments = dict(commands[command])
                mailbox._publish(command, arguments, reply_ticket=ticket, channel=channel, timeout=timeout_s, producer=once)
            receivers: int | None = getattr(channel, "receivers", None)
            while receivers is None or len(replied) < receivers * len(commands):
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    break
                try:
                    connection.drain_events(timeout=left_s)
                except TimeoutError:
                    break
    finally:
        channel.after_reply_message_received(queue.name)
    return answers, receivers
