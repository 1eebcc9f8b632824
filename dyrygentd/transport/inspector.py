"""Finds out where task attempts are: in the broker, at a worker, or finished.

The places are looked at in the direction in which a task moves, queue, reservations, workers, result, so that one that moves on
meanwhile is met later on. One that was met nowhere is looked for in the queue and among the reservations once more, because a
worker that ends puts back what it did not start. What remains is a worker that is away for a moment, as while it connects again;
whoever acts upon "nowhere" without a person looks again some time later (`dyrygentd.scheduler.lost`).

A connection of its own for each inspection, closed afterwards: people ask rarely, and connections that nobody uses are dropped by
brokers. All of it is bounded, by timeouts of the sockets and by deadlines.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
from celery.backends.redis import RedisBackend, SentinelBackend
from kombu.messaging import Consumer
from kombu.transport.virtual import Channel as VirtualChannel

from dyrygentd.advice import with_advice
from dyrygentd.core.words import described
from dyrygentd.ports.facts import BACKEND_SILENT, BROKER_SILENT, Inspection, QueueFacts, TaskFacts, TaskPlace, WorkerFacts
from dyrygentd.transport.broadcast import ask_workers, connected
from dyrygentd.transport.found import FoundSoFar, at_worker, consumed_of, met_at, rates_of, stored_of
from dyrygentd.transport.message import MessageSender
from dyrygentd.transport.meta import stored_at
from dyrygentd.transport.origins import origin_of_queue
from dyrygentd.transport.redis_push import client_of, delivery_tag
from dyrygentd.transport.redis_queues import RedisQueues, fetching_connections, queues_of
from dyrygentd.transport.redis_reading import read_results
from dyrygentd.transport.results import StoredResults, states_of, without_pickle

#: Workers answer within milliseconds unless they are busy with something else.
_ANSWER_TIMEOUT_S: Final = 1.0
_SOCKET_TIMEOUT_S: Final = 3.0
#: For all questions to the broker, and for all to the backend: a search of long queues takes seconds.
_DEADLINE_S: Final = 10.0
#: Tasks of one worker whose names are looked at.
_TASKS_MAX: Final = 10_000
#: Inspections at a time, whose threads may all hang at a broker that does not answer.
_THREADS_MAX: Final = 4

#: Events that a worker sends while it lives; it says itself when it ends (`worker-offline`).
_SIGNS_OF_LIFE: Final = frozenset({"worker-heartbeat", "worker-online"})
_WORKER_STATES: Final = {"active": "active", "scheduled": "scheduled"}

T = TypeVar("T")


class CeleryInspector:
    """Looks for task attempts through the app's broker and result backend.

    Args:
        answer_timeout_s: How long workers may take to answer. Waited for in full where it is unknown how many there are.
        socket_timeout_s: How long the broker and the backend may take for one answer.
        deadline_s: How long each of the two may take altogether.
    """

    def __init__(
        self,
        app: Any,
        *,
        answer_timeout_s: float = _ANSWER_TIMEOUT_S,
        socket_timeout_s: float = _SOCKET_TIMEOUT_S,
        deadline_s: float = _DEADLINE_S,
    ) -> None:
        self._app = app
        self._answer_timeout_s = answer_timeout_s
        self._socket_timeout_s = socket_timeout_s
        self._deadline_s = deadline_s
        self._threads = anyio.CapacityLimiter(_THREADS_MAX)

    def __repr__(self) -> str:
        return f"<CeleryInspector asking={self._threads.borrowed_tokens}>"

    async def trace(self, tasks: Sequence[TaskPlace]) -> Inspection:
        """Look for these attempts; never raises, see `dyrygentd.ports.Inspector`."""
        places = {task.task_id: task for task in tasks}
        known = FoundSoFar({task_id: TaskFacts(task_id, task=place.signature.task) for task_id, place in places.items()})
        if places:
            # A copy, because the thread may go on after its deadline.
            found = FoundSoFar(dict(known.tasks))
            problem = await self._within(lambda: self._ask_broker(found, places))
            known = replace(found, tasks=dict(found.tasks), queues=dict(found.queues), problems=list(found.problems))
            known.alive, known.consumed, known.origins = dict(found.alive), dict(found.consumed), dict(found.origins)
            if problem:
                known.problems.append(with_advice(f"{BROKER_SILENT}: {problem}"))
            try:
                with anyio.fail_after(self._deadline_s):
                    await self._ask_backend(known)
            except Exception as error:
                # Each backend has errors of its own.
                known.problems.append(f"{BACKEND_SILENT}: {described(error)}")
            again = {task_id: places[task_id] for task_id in known.nowhere()}
            if again and not problem:
                found = replace(known, tasks=dict(known.tasks), queues=dict(known.queues), problems=list(known.problems))
                problem = await self._within(lambda: self._look_again(found, again))
                if not problem:
                    known = found
                else:
                    known.problems.append(f"the broker cannot be asked again: {problem}")
                    known.doubt_queues()
        return Inspection(
            known.tasks,
            known.queues,
            known.workers,
            known.listening,
            known.problems,
            connected=known.connected,
            connected_before=known.connected_before,
            alive=known.alive,
            consumed=known.consumed,
            origins=known.origins,
            results_kept_s=_kept_s(self._app.conf.result_expires),
        )

    async def census(self) -> Inspection:
        """Ask the workers from which queues they take; see `dyrygentd.ports.Inspector`."""
        consumed: dict[str, list[str]] = {}
        found: dict[str, Any] = {}

        def ask() -> None:
            with self._connected() as (connection, producer, _):
                answers, found["listening"] = self._ask(connection, producer, {"active_queues": {}})
                consumed.update(consumed_of(answers["active_queues"]))
                found["workers"] = sorted(answers["active_queues"])

        problem = await self._within(ask)
        if problem:
            return Inspection(problems=[with_advice(f"{BROKER_SILENT}: {problem}")])
        return Inspection(consumed=consumed, **found)

    async def registered(self, task: str) -> Mapping[str, bool] | None:
        """Ask the workers whether they know a task; see `dyrygentd.ports.Inspector`."""
        known: dict[str, bool] = {}

        def ask() -> None:
            with self._connected() as (connection, producer, _):
                answers, _ = self._ask(connection, producer, {"registered": {"taskinfoitems": ["rate_limit"], "builtins": True}})
                for worker, tasks in answers["registered"].items():
                    known[worker] = any(str(each).partition(" [")[0] == task for each in tasks or ())

        return None if await self._within(ask) else dict(known)

    async def task_names(self) -> Sequence[str]:
        """Ask the workers for all their tasks; see `dyrygentd.ports.Inspector`."""
        names: set[str] = set()

        def ask() -> None:
            with self._connected() as (connection, producer, _):
                answers, _ = self._ask(connection, producer, {"registered": {}})
                for tasks in answers["registered"].values():
                    names.update(str(each).partition(" [")[0] for each in (tasks or ())[:_TASKS_MAX])

        await self._within(ask)
        return sorted(names)

    async def heard(self, *, listen_s: float) -> frozenset[str] | None:
        """Listen to the workers' heartbeats; see `dyrygentd.ports.Inspector`."""
        names: set[str] = set()

        def listen() -> None:
            with self._connected() as (connection, producer, _):
                receiver = self._app.events.Receiver(connection, routing_key="worker.#", handlers={})
                deadline = time.monotonic() + listen_s

                def take(body: Any, message: Any) -> None:
                    for event in body if isinstance(body, list) else [body]:
                        if isinstance(event, dict) and event.get("type") in _SIGNS_OF_LIFE:
                            names.add(str(event.get("hostname")))

                accept = without_pickle(receiver.accept)
                consumer = Consumer(producer.channel, [receiver.queue], callbacks=[take], no_ack=True, accept=accept)
                with consumer:
                    while (left_s := deadline - time.monotonic()) > 0:
                        with suppress(TimeoutError):
                            connection.drain_events(timeout=left_s)

        return None if await self._within(listen, deadline_s=listen_s + self._deadline_s) else frozenset(names)

    async def close(self) -> None:
        """Do nothing: no connection outlives its inspection."""

    async def _within(self, work: Callable[[], T], *, deadline_s: float | None = None) -> str:
        """Do blocking work in a thread; return what was wrong."""
        deadline_s = deadline_s or self._deadline_s
        try:
            with anyio.fail_after(deadline_s):
                await anyio.to_thread.run_sync(work, limiter=self._threads, abandon_on_cancel=True)
        except TimeoutError as error:
            return described(error) if str(error) else f"no answer within {deadline_s:g} s"
        except Exception as error:
            # What transports raise is as various as they are, and none of it may reach who asks "why".
            return described(error)
        return ""

    # --- the broker and the workers, in a thread --------------------------------------------------------------------

    def _ask_broker(self, found: FoundSoFar, places: Mapping[str, TaskPlace]) -> None:
        """Look into the queues and the reservations, then ask the workers."""
        with self._connected() as (connection, producer, is_redis):
            channel = producer.channel
            # A sender of its own, because its caches are not made for several threads.
            sender = MessageSender(self._app)
            found.queues_of = {task_id: queues_of(sender, channel, place) for task_id, place in places.items()}
            for task_id, queues in found.queues_of.items():
                found.learn(task_id, queue=queues[0] if queues else "")
            if is_redis:
                self._look_into_redis(found, channel, places)
                # Before the workers are asked: to listen to them this process fetches messages, too.
                found.connected, found.connected_before = fetching_connections(client_of(channel), channel)
            else:
                self._declare_passively(found, connection, channel)
            self._ask_workers(found, connection, producer)
            nobodys = {name for name, facts in found.queues.items() if facts.consumers == 0}
            for task in found.tasks.values():
                if task.queue in nobodys and task.task not in found.origins:
                    found.origins[task.task] = origin_of_queue(self._app, places[task.task_id].signature, task.queue)

    def _look_again(self, found: FoundSoFar, places: Mapping[str, TaskPlace]) -> None:
        """Look for what was met nowhere where a worker that ended may have put it back."""
        with self._connected() as (connection, producer, is_redis):
            if is_redis:
                self._look_into_redis(found, producer.channel, places)
            else:
                self._declare_passively(found, connection, producer.channel)

    def _connected(self) -> AbstractContextManager[tuple[Any, Any, bool]]:
        """Connect for a few questions; yield the connection, a producer, and whether it is Redis."""
        return connected(self._app, timeout_s=self._socket_timeout_s)

    def _look_into_redis(self, found: FoundSoFar, channel: Any, places: Mapping[str, TaskPlace]) -> None:
        redis = RedisQueues(channel, client_of(channel))
        visibility_timeout_s = float(channel.visibility_timeout)
        in_queue: dict[str, list[str]] = {}
        for task_id in places:
            for queue in found.queues_of[task_id]:
                in_queue.setdefault(queue, []).append(task_id)
        for queue, task_ids in in_queue.items():
            positions, is_searched = redis.find(queue, task_ids)
            before = found.queues.get(queue, QueueFacts(queue))
            found.queues[queue] = replace(before, length=redis.length(queue), is_searched=is_searched)
            for task_id, position in positions.items():
                found.learn(task_id, position=position, queue=queue)
        tags = {delivery_tag(task_id, place.attempt): task_id for task_id, place in places.items()}
        reserved = redis.reservations(list(tags))
        for tag, task_id in tags.items():
            since = reserved.get(tag)
            redelivered_at = None if since is None else since + visibility_timeout_s
            found.learn(task_id, is_reserved=tag in reserved, reserved_since=since, redelivered_at=redelivered_at)
        elsewhere = [
            task_id for task_id in places if found.tasks[task_id].position is None and not found.tasks[task_id].is_reserved
        ]
        others, is_searched = redis.reserved_under_other_tags(elsewhere) if elsewhere else ({}, True)
        if not is_searched:
            found.doubt_queues()
        times = redis.reservations(list(others.values())) if others else {}
        for task_id in elsewhere:
            since = times.get(others[task_id]) if task_id in others else None
            redelivered_at = None if since is None else since + visibility_timeout_s
            found.learn(task_id, is_reserved=task_id in others, reserved_since=since, redelivered_at=redelivered_at)

    def _declare_passively(self, found: FoundSoFar, connection: Any, channel: Any) -> None:
        is_virtual = isinstance(channel, VirtualChannel)
        for queue in sorted({queue for queues in found.queues_of.values() for queue in queues}):
            # At the second look it is known already which workers consume it.
            before = found.queues.get(queue, QueueFacts(queue))
            try:
                # An error closes the channel, so each has its own.
                with connection.channel() as its_own:
                    declared = its_own.queue_declare(queue=queue, passive=True)
            except connection.channel_errors as error:
                is_missing = getattr(error, "code", None) in (404, "404")
                found.queues[queue] = QueueFacts(queue, *((0, 0) if is_missing else ()))
                found.problems.append(f"queue '{queue}' cannot be looked at: {described(error)}")
            else:
                # kombu's own transports know nothing of consumers, and say 0.
                found.queues[queue] = replace(
                    before,
                    length=declared.message_count,
                    consumers=before.consumers if is_virtual else declared.consumer_count,
                    is_searched=declared.message_count == 0,
                )

    def _ask_workers(self, found: FoundSoFar, connection: Any, producer: Any) -> None:
        answers, listening = self._ask(connection, producer, {"query_task": {"ids": list(found.tasks)}, "active_queues": {}})
        found.listening = listening
        found.workers = sorted({*answers["query_task"], *answers["active_queues"]})
        for worker, requests in answers["query_task"].items():
            for task_id, (state, request) in requests.items():
                if task_id in found.tasks:
                    found.learn(task_id, **met_at(found.tasks[task_id], worker, _WORKER_STATES.get(state, "reserved"), request))
        found.consumed = consumed_of(answers["active_queues"])
        for name, facts in found.queues.items():
            workers = found.consumed.get(name, [])
            consumers = facts.consumers
            if consumers is None and listening is not None and len(answers["active_queues"]) >= listening:
                consumers = len(workers)
            found.queues[name] = replace(facts, workers=workers, consumers=consumers)
        if found.workers and found.nowhere():
            self._ask_more(found, connection, producer)
        elif any(task.worker_state == "scheduled" for task in found.tasks.values()):
            # `query_task` does not say for when.
            answers, _ = self._ask(connection, producer, {"scheduled": {}})
            self._learn_scheduled(found, answers["scheduled"])

    def _learn_scheduled(self, found: FoundSoFar, scheduled: Mapping[str, Any]) -> None:
        """Take in what waits at workers for its time: ``{worker: entries}``."""
        for worker, entries in scheduled.items():
            for entry in entries or ():
                request = entry.get("request") or {}
                task = found.tasks.get(str(request.get("id")))
                if task is not None and task.worker_state in ("", "scheduled"):
                    due_at = stored_at(entry.get("eta"))
                    found.learn(task.task_id, **at_worker(worker, "scheduled", request), due_at=due_at)

    def _ask_more(self, found: FoundSoFar, connection: Any, producer: Any) -> None:
        """Ask for what `query_task` does not know: what waits for its retry, rate limits, and how old the workers are.

        These answers may be long, so they are wanted only if a task was met nowhere.
        """
        names = {task.task for task in found.tasks.values()}
        commands: dict[str, Mapping[str, Any]] = {"scheduled": {}, "registered": {"taskinfoitems": ["rate_limit"]}, "stats": {}}
        answers, _ = self._ask(connection, producer, commands)
        self._learn_scheduled(found, answers["scheduled"])
        for worker in {*answers["registered"], *answers["stats"]}:
            uptime_s = (answers["stats"].get(worker) or {}).get("uptime")
            rates = rates_of(answers["registered"].get(worker) or (), names)
            found.alive[worker] = WorkerFacts(float(uptime_s) if isinstance(uptime_s, int | float) else None, rates)

    def _ask(self, connection: Any, producer: Any, commands: Mapping[str, Mapping[str, Any]]) -> Any:
        return ask_workers(self._app, connection, producer, commands, timeout_s=self._answer_timeout_s)

    # --- the result backend -----------------------------------------------------------------------------------------

    async def _ask_backend(self, found: FoundSoFar) -> None:
        backend, task_ids = self._app.backend, list(found.tasks)
        if isinstance(backend, RedisBackend) and not isinstance(backend, SentinelBackend):
            metas = await read_results(backend, task_ids, timeout_s=self._socket_timeout_s)
        else:
            # One for each inspection: two of them may ask at a time, each in a thread of its own.
            stored = StoredResults(backend)
            ask = partial(states_of, stored, task_ids)
            metas = await anyio.to_thread.run_sync(ask, limiter=self._threads, abandon_on_cancel=True)
        for task_id, meta in metas.items():
            found.learn(task_id, **stored_of(meta))


def _kept_s(expires: object) -> float:
    """Return how long Celery's `result_expires` keeps a result, 0 for ever or if it cannot be told."""
    if isinstance(expires, timedelta):
        return expires.total_seconds()
    return float(expires) if isinstance(expires, int | float) else 0.0
