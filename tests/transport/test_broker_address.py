"""Where a broker is: two ways to write the same URL are one address, and nobody's password is in it."""

import pytest
from celery import Celery

from dyrygentd.transport.broker_address import address_of


@pytest.mark.parametrize(
    ("address", "urls"),
    [
        (
            "redis://localhost:6379",
            ["redis://", "redis://localhost", "redis://u:secret@localhost:6379/0", "rediss://localhost//"],
        ),
        ("redis://localhost:6379/1", ["redis://localhost/1"]),
        ("redis://other:7000", ["redis://other:7000"]),
        ("redis+socket:///run/b.sock", ["redis+socket:///run/b.sock"]),
        ("redis+socket:///run/b.sock?virtual_host=3", ["redis+socket:///run/b.sock?virtual_host=3"]),
        ("sentinel://a:1;sentinel://b:2", ["sentinel://:secret@a:1;sentinel://b:2", "sentinel://b:2;sentinel://a:1"]),
        ("amqp://h:5672/shop", ["amqp://u:secret@h/shop", "pyamqp://h:5672/shop"]),
    ],
)
def test_one_place_for_one_broker(address: str, urls: list[str]) -> None:
    """User, password, TLS, default ports and databases, and the order of several do not make another broker."""
    for url in urls:
        with Celery(broker=url, set_as_current=False) as app:
            assert address_of(app.connection_for_write()) == address


def test_prefix_and_master_are_part_of_it() -> None:
    """Another prefix or another master has other queues."""
    with Celery(broker="sentinel://a:26379", set_as_current=False) as app:
        app.conf.broker_transport_options = {"master_name": "one", "global_keyprefix": "shop:"}
        assert address_of(app.connection_for_write()) == "sentinel://a:26379 (master one) (prefix shop:)"
