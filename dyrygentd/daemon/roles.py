"""What a process is, one thing after the other: it stands by, leads, and stands by again if it has lost the database.

*Its sockets* are open all the time. Each role has an application of its own on copies of them; the next one is served before the
last one ends, so nobody is refused, and a standby answers until all that is unfinished has been read back.

In which order, and what an end of one means for the next, is said by `dyrygentd.daemon.succession`.
"""

import logging
import math
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

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
from dyrygentd.daemon.succession import LOOK_S, Succession
from dyrygentd.deputy.deputy import Deputy, Role
from dyrygentd.errors import ConfigurationError, OutsideError, StoreUnavailable
from dyrygentd.ports import Lease, Store
from dyrygentd.ports.facts import Holder
from dyrygentd.scheduler import Scheduler
from dyrygentd.scheduler.limits import SystemClock
from dyrygentd.store.choice import onlooker_of, store_of
from dyrygentd.store.postgres.url import PostgresUrl
from dyrygentd.store.values import value_store_of

logger = logging.getLogger("dyrygentd.daemon")

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
        takeovers: How often this process has begun to lead.
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
        self.takeovers = 0
        self._reload = reload
        self._app = app
        self._stage = stage
        self._registry = registry
        self._make_scheduler = make_scheduler
        self._progress = progress
        self._doubt = ""
        self._host_name: HostName | None = None
        self._succession = Succession(self)
        self._drain: Drain | None = None
        self._leave_registry: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<Roles {self.role} takeovers={self.takeovers} losses={self._succession.losses}>"

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
            "changes": {"taken": self.takeovers, "lost": self._succession.losses},
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
        self._succession.end()

    async def run(self) -> None:
        """Go through the roles until `end`; raises as `Succession.run`."""
        await self._succession.run()

    # --- how it does what its role is, as `succession.Part` tells ------------------------------------------------------

    @property
    def may_lead(self) -> bool:
        """Tell whether it wants the lease at all."""
        return self._deputys_role == "standby"

    @property
    def is_serving(self) -> bool:
        """Tell whether clients have been served by this process, in whatever role."""
        return self.is_up.is_set()

    def holder(self) -> Holder:
        """Return what tells this process from others."""
        return Holder.here(SystemClock().now())

    def make_store(self) -> Store:
        """Make a store to lead with, which is not open yet."""
        configuration = self._reload.configuration
        assert configuration.database is not None
        return store_of(
            configuration.database,
            history_max=configuration.history_max,
            progress=self._progress,
            host=configuration.access.host,
        )

    async def prepare(self, lease: Lease) -> None:
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

    async def keep_up(self, lease: Lease) -> None:
        """Keep the name of this host, until cancelled."""
        assert self._host_name is not None
        await self._host_name.keep(lease)

    async def answer_beside(self, lease: Lease, over: anyio.Event, *, task_status: TaskStatus[None]) -> None:
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
                values=value_store_of(configuration.value_store, configuration.database),
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
                with anyio.move_on_after(LOOK_S):
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

    async def lead(self, store: Store, standby_over: Callable[[], None]) -> None:
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
            await self._succession.ending.wait()
            assert self._drain is not None
            await self._drain(scheduler, await _is_followed(store.lease))

    async def _note_broker(self, store: Store, scheduler: Scheduler) -> None:
        try:
            await note_broker(store, BrokerPlace.of(self._app), term=scheduler.health().term, pid=os.getpid())
        except StoreUnavailable as error:
            logger.warning("those that stand by cannot compare their broker with this one's: %s", error)

    def _scheduler_ends(self) -> None:
        self.scheduler = None


async def _is_followed(lease: Lease | None) -> bool:
    """Tell whether somebody waits to lead."""
    if lease is None:
        return False
    try:
        return (await lease.view()).standbys > 0
    except OutsideError:
        return False
