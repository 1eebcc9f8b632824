"""The tests' app with one queue, bound to a topic exchange of its own, both named by the environment."""

import os

from kombu.entity import Exchange, Queue

from tests.support.tasks import app

__all__ = ["app"]

_name = os.environ["DYRYGENTD_TEST_TOPIC"]
app.conf.task_queues = [Queue(_name, Exchange(f"{_name}-exchange", type="topic"), routing_key="media.#")]
app.conf.task_default_queue = _name
