"""What a process is, one thing after the other: it stands by, leads, and stands by again if it has lost the database.

*Its sockets* are open all the time. Each role has an application of its own on copies of them; the next one is served before the
last one ends, so nobody is refused, and a standby answers until all that is unfinished has been read back.

*Whose database is away at the start* stands by until it is there. What waiting does not help (no such database, no rights) ends
it, since whoever has started it looks then.

*Whose database went back* has turns in mind that nobody has any more. It begins anew with what is there, unless one that stood by
is faster.

*Who was overtaken* stands by, unless a copy of the database has gone on: two that take turns would help nobody, so it ends.

*Where a lock decides*, as with SQLite, a process leads from its start to its end, and another one that takes over ends it.
"""

import logging
import math
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any, Final

import anyio
from anyio.abc import TaskStatus

from dyrygentd import metrics
from dyrygentd.core.words import counted
from dyrygentd.daemon import keepalive
from dyrygentd.daemon.namesakes import HostName
from dyrygentd.daemon.reload import Reload
from dyrygentd.daemon.same_broker import BrokerPlace, compare_brokers, note_broker
from dyrygentd.daemon.stage import Stage
from dyrygentd.daemon.status import status_line
from dyrygentd.deputy.deputy import Deputy, Role
from dyrygentd.errors import ConfigurationError, Fenced, OutsideError, StoreIncompatible, StoreUnavailable
from dyrygentd.ports import Lease, Store
from dyrygentd.ports.facts import Holder, LeaseView
from dyrygentd.scheduler import Scheduler
from dyrygentd.scheduler.limits import SystemClock
from dyrygentd.store.choice import onlooker_of, store_of
from dyrygentd.store.continuity import WentBack
from dyrygentd.store.postgres import StoreAway
from dyrygentd.store.postgres.url import PostgresUrl

logger = logging.getLogger("dyrygentd.daemon")

#: How often who stands by tries to take the lease, if nobody wakes it; and how long after its end, if that comes before.
_LOOK_S: Final = 1.0
_JUST_OVER_S: Final = 0.1
#: How long whoever was overtaken asks by whom.
_ASK_MAX_S: Final = 2.0

MakeScheduler = Callable[[Store], Scheduler]
Drain = Callable[[Scheduler, bool], Awaitable[None]]
"""Ends the work of a scheduler; told whether another process follows it at once."""


class Roles:
    """Takes a process through its roles. Guards: it has one at a time, and clients are served in each.

    Args:
        make_scheduler: Makes what leads, on a store that is not open yet.

    Attributes:
        scheduler: What leads; None while this process does not.
        deputy: What answers beside the leader; None while this process leads, or nothing is served yet.
        is_up: Set once clients are served.
        takeovers, losses: How often this process has begun to lead, and was overtaken.
    """

    def __init__(
        self,
        reload: Reload,
        app: Any,
        stage: Stage,
        *,
        registry: metrics.Registry,
        make_scheduler: MakeScheduler,
        progress: keepalive.StartProgress,
    ) -> None:
        self.scheduler: Scheduler | None = None
        self.deputy: Deputy | None = None
        self.is_up = anyio.Event()
        self.takeovers = self.losses = 0
        self._reload = reload
        self._app = app
        self._stage = stage
        self._registry = registry
        self._make_scheduler = make_scheduler
        self._progress = progress
        self._doubt = ""
        self._host_name: HostName | None = None
        self._ending = anyio.Event()
        self._drain: Drain | None = None
        self._leave_registry: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<Roles {self.role} takeovers={self.takeovers} losses={self.losses}>"

    @property
    def role(self) -> str:
        """What this process is now."""
        if self.scheduler is not None:
            return "leader"
        return self._deputys_role if self.deputy is not None else "starting"

    @property
    def _deputys_role(self) -> Role:
        return "gateway" if self._reload.configuration.role == "gateway" else "standby"

    def figures(self) -> dict[str, Any]:
        """Return what metrics tell of roles and lease; nothing of a process that shares no database, or that is starting."""
        serving = self.scheduler or self.deputy
        health = None if serving is None else serving.health()
        if health is None or not health.role:
            return {}
        return {
            "role": health.role,
            # Whoever leads knows; of others nobody is known to.
            "left_s": -math.inf if health.lease_left_s is None else health.lease_left_s,
            "standbys": health.standbys,
            "changes": {"taken": self.takeovers, "lost": self.losses},
        }

    @property
    def stalled_s(self) -> float:
        """For how long there has been work that no turn took up."""
        return 0.0 if self.scheduler is None else self.scheduler.stalled_s

    def status_line(self, people_wanted: Mapping[str, int] | None = None) -> str:
        """Return the line that `systemctl status` shows."""
        if self.scheduler is not None:
            return status_line(self.scheduler, people_wanted)
        if self.deputy is None:
            return "recovering"
        health = self.deputy.health()
        lease = f"term {health.term}, {counted(health.standbys, 'standby')}"
        return "; ".join(part for part in (*health.problems, self.deputy.vantage, lease, *health.notices) if part)

    def people_wanted(self) -> dict[str, int]:
        """Count what waits for a person, if this process leads."""
        return {} if self.scheduler is None else self.scheduler.people_wanted()

    def end(self, drain: Drain) -> None:
        """Have `run` return; a leader is drained before."""
        self._drain = drain
        self._ending.set()

    async def run(self) -> None:
        """Go through the roles until `end`.

        Raises `Fenced` where nobody stands by, or a copy of the database went on, or what keeps the first role from beginning.
        """
        while not self._ending.is_set():
            configuration = self._reload.configuration
            assert configuration.database is not None
            store = store_of(
                configuration.database,
                history_max=configuration.history_max,
                progress=self._progress,
                host=configuration.access.host,
            )
            if store.lease is None:
                await self._lead(store, lambda: None)
                return
            try:
                await self._claim_host_name(store.lease)
                await self._take_part(store, store.lease)
            except WentBack as error:
                logger.error("%s: this process begins anew", error.message)
            except Fenced as error:
                if await _is_by_a_copy(store.lease):
                    raise
                self.losses += 1
                logger.error("%s: this process stands by", error.message)
            except StoreUnavailable as error:
                if not self.is_up.is_set() and not isinstance(error, StoreAway):
                    raise
                logger.error("cannot lead, and stands by: %s", error)
            finally:
                with anyio.CancelScope(shield=True):
                    await store.close()

    async def _claim_host_name(self, lease: Lease) -> None:
        """See that no other machine has the name of this host. Raises `ConfigurationError`, or `StoreUnavailable`."""
        if self._host_name is not None:
            return
        self._host_name = HostName(self._reload.configuration.access.host)
        try:
            await self._host_name.claim(lease)
        except ConfigurationError:
            raise
        except OutsideError as error:
            if self._deputys_role == "standby":
                raise
            logger.debug("whether another host has this one's name is not known: %s", error)

    async def _take_part(self, store: Store, lease: Lease) -> None:
        """Stand by unless the lease can be had at once, and lead when it can, until that is over."""
        lost: Fenced | StoreUnavailable | None = None
        async with anyio.create_task_group() as tasks:
            over, naming = anyio.Event(), anyio.CancelScope()
            tasks.start_soon(self._keep_host_name, lease, naming)
            may_lead = self._deputys_role == "standby"
            # Who has lost it serves clients first, whether the database can be reached or not.
            at_once = may_lead and not self.is_up.is_set()
            if not (at_once and await _taken_at_once(lease)):
                await tasks.start(self._answer_beside, lease, over)
                await self._wait_for(lease, may_lead=may_lead)
            if not self._ending.is_set():
                try:
                    await self._lead(store, over.set)
                except (Fenced, StoreUnavailable) as error:
                    lost = error
            over.set()
            naming.cancel()
        if lost is not None:
            raise lost

    async def _keep_host_name(self, lease: Lease, scope: anyio.CancelScope) -> None:
        assert self._host_name is not None
        with scope:
            await self._host_name.keep(lease)

    async def _answer_beside(self, lease: Lease, over: anyio.Event, *, task_status: TaskStatus[None]) -> None:
        """Serve clients of a process that does not lead."""
        configuration = self._reload.configuration
        assert isinstance(configuration.database, PostgresUrl)
        async with AsyncExitStack() as exits:
            store = onlooker_of(configuration.database)
            await store.open()
            exits.push_async_callback(store.close)
            deputy = Deputy(
                self._app,
                store=store,
                lease=lease,
                role=self._deputys_role,
                registry=self._registry,
                limits=configuration.scheduler_limits,
                app_name=configuration.app or "",
                host=configuration.access.host,
            )
            await exits.enter_async_context(deputy)
            collector = metrics.register(self._registry, deputy.statistics)
            is_told = anyio.Event()

            def leave_registry() -> None:
                if not is_told.is_set():
                    is_told.set()
                    metrics.unregister(self._registry, collector)

            exits.callback(leave_registry)
            self._leave_registry = leave_registry
            if deputy.can_look:
                await self._compare_brokers(store, lease)
            await exits.enter_async_context(self._stage.serving(deputy))
            self.deputy = deputy
            exits.callback(self._deputy_ends)
            logger.info("%s: %s", "never leads" if deputy.role == "gateway" else "stands by", deputy.who_leads)
            self._came_up()
            task_status.started()
            while not over.is_set():
                await self._compare_brokers(store, lease)
                with anyio.move_on_after(_LOOK_S):
                    await over.wait()

    async def _compare_brokers(self, store: Store, lease: Lease) -> None:
        """See whether whoever leads has the broker of this process. Raises `ConfigurationError` if this one may not take over."""
        try:
            doubt = await compare_brokers(store, lease, BrokerPlace.of(self._app))
        except ConfigurationError as error:
            if self._deputys_role == "standby":
                raise
            doubt = f"{error.message}: what is asked of it is not what the leader's tasks are in; {error.next_step}"
        except OutsideError as error:
            logger.debug("the leader's broker is not known: %s", error)
            return
        if doubt and doubt != self._doubt:
            logger.warning("%s", doubt)
        self._doubt = doubt

    def _deputy_ends(self) -> None:
        self.deputy = None

    def _came_up(self) -> None:
        self._progress.end()
        self.is_up.set()

    async def _wait_for(self, lease: Lease, *, may_lead: bool) -> None:
        """Return once this process has the lease, or is to end."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._take_as_soon_as_free, lease, may_lead, tasks.cancel_scope.cancel)
            await self._ending.wait()
            tasks.cancel_scope.cancel()

    async def _take_as_soon_as_free(self, lease: Lease, may_lead: bool, taken: Callable[[], None]) -> None:
        if not may_lead:
            await anyio.sleep_forever()
        # It was asked for just now, or was lost: who loses it again and again pauses.
        complaint, pause_s = "", _LOOK_S
        while True:
            try:
                await lease.wait(pause_s)
                if await lease.take(Holder.here(SystemClock().now())):
                    taken()
                    return
                complaint, pause_s = "", until_next_look_s(await lease.view())
            except StoreIncompatible:
                raise
            except OutsideError as error:
                if error.message != complaint:
                    logger.warning("stands by, and cannot ask for the lease: %s", error)
                    complaint = error.message
                await anyio.sleep(_LOOK_S)

    async def _lead(self, store: Store, standby_over: Callable[[], None]) -> None:
        """Lead until the end. Raises `Fenced` if another process takes over."""
        if self.deputy is not None:
            self._leave_registry()
        async with AsyncExitStack() as exits:
            scheduler = await exits.enter_async_context(self._make_scheduler(store))
            await exits.enter_async_context(self._stage.serving(scheduler))
            standby_over()
            self.scheduler = scheduler
            self.takeovers += 1
            exits.callback(self._scheduler_ends)
            self._came_up()
            if store.lease is not None:
                await self._note_broker(store, scheduler)
            await self._ending.wait()
            assert self._drain is not None
            await self._drain(scheduler, await _is_followed(store.lease))

    async def _note_broker(self, store: Store, scheduler: Scheduler) -> None:
        try:
            await note_broker(store, BrokerPlace.of(self._app), term=scheduler.health().term, pid=os.getpid())
        except StoreUnavailable as error:
            logger.warning("those that stand by cannot compare their broker with this one's: %s", error)

    def _scheduler_ends(self) -> None:
        self.scheduler = None


def until_next_look_s(view: LeaseView) -> float:
    """Return how long who stands by pauses: until the lease is over at most, and never less than it takes to look."""
    return min(_LOOK_S, max(view.left_s, 0.0) + _JUST_OVER_S)


async def _taken_at_once(lease: Lease) -> bool:
    """Take the lease if it is free. Whose server is away or starts, as after a power cut, waits for it as for a broker."""
    try:
        return await lease.take(Holder.here(SystemClock().now()))
    except StoreAway as error:
        logger.warning("cannot lead yet, and stands by: %s", error)
        return False


async def _is_by_a_copy(lease: Lease) -> bool:
    """Tell whether who has overtaken this process works with another database: in this one it would have the lease before."""
    # Who cannot ask stands by, and finds out at the next attempt to lead; its clients wait meanwhile.
    with suppress(OutsideError), anyio.move_on_after(_ASK_MAX_S):
        return (await lease.view()).is_ours
    return False


async def _is_followed(lease: Lease | None) -> bool:
    """Tell whether somebody waits to lead."""
    if lease is None:
        return False
    try:
        return (await lease.view()).standbys > 0
    except OutsideError:
        return False
