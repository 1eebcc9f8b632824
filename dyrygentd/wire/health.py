"""How a daemon stands, what it is doing, and what one that does not lead says beside its answers."""

from typing import Any, Final

from msgspec import Struct

from dyrygentd.core.words import counted, span
from dyrygentd.wire.plain import View

#: Response header of a standby or gateway: what it is, who leads, and how old what it shows may be.
VANTAGE_HEADER: Final = "Dyrygentd-Vantage"


NOBODY_LEADS: Final = "no daemon leads at present: nothing is dispatched until one does"
"""What is wrong, as one says that does not lead and has looked."""


class Health(Struct, View):
    """Whether the daemon does its work; ``problems`` says what keeps it from that, ``notices`` what else people should know.

    Attributes:
        term: How many processes have taken this database over, this one included; of two that have copies the higher one counts.
        role: What this process is, where several share a database: ``leader``, ``standby`` or ``gateway``; else empty.
        leader: Who leads, as people are told; empty if nobody does, or if this process alone has the database.
        lag_s: Of a standby or gateway, how long ago the leader was heard of: what it shows may be so old.
        lease_left_s: For how long the leader has the database, unless it renews that; negative: for how long nobody has had it.
            None where no lease decides, or if nobody knows.
        standbys: How many processes wait to lead, as far as they were seen lately.
    """

    status: str
    version: str
    problems: list[str] = []
    notices: list[str] = []
    term: int = 0
    role: str = ""
    leader: str = ""
    lag_s: float | None = None
    lease_left_s: float | None = None
    standbys: int = 0


class Statistics(Struct, View):
    """What the daemon is doing, by part.

    Attributes:
        tallies: ``{step: {"bounds", "counts", "sum", "examples"}}``: how long steps took, see `dyrygentd.core.tally.Tally`.
        tasks, queues, workflows: ``{name: {word: sum}}``.
        term, role, leader, lag_s, lease_left_s, standbys: As in `Health`.
    """

    version: str
    uptime_s: float
    engine: dict[str, Any]
    store: dict[str, Any]
    dispatcher: dict[str, Any]
    watcher: dict[str, Any]
    lost: dict[str, Any] = {}
    problems: list[str] = []
    notices: list[str] = []
    reports: dict[str, Any] = {}
    tallies: dict[str, dict[str, Any]] = {}
    tasks: dict[str, dict[str, float]] = {}
    queues: dict[str, dict[str, float]] = {}
    workflows: dict[str, dict[str, float]] = {}
    role: str = ""
    leader: str = ""
    lag_s: float | None = None
    term: int = 0
    lease_left_s: float | None = None
    standbys: int = 0


def knows_nobody_leads(health: Health | Statistics) -> bool:
    """Tell whether nobody leads; where the database cannot be looked at, that is not known."""
    return bool(health.role) and not health.leader and NOBODY_LEADS in health.problems


def lease_words(health: Health | Statistics) -> str:
    """Say how the lease stands, ``term 3, holds for 4.2 s, 1 standby``; empty where one process alone has the database."""
    if not health.role:
        return ""
    left_s = health.lease_left_s
    holds = "" if left_s is None else f"{'holds' if left_s > 0 else 'over'} for {span(abs(left_s), is_fine=True)}"
    return ", ".join(part for part in (f"term {health.term}", holds, counted(health.standbys, "standby")) if part)


def who_leads(leader: str, lag_s: float | None, *, is_blind: bool) -> str:
    """Say who leads, and how long ago that was heard.

    Args:
        is_blind: The database cannot be looked at, so that nobody leads is not known.
    """
    if leader:
        return f"{leader} leads" + ("" if lag_s is None else f", heard of {span(lag_s, is_fine=True)} ago")
    if is_blind:
        return "who leads is not known here, as the database does not answer"
    return "nobody leads at present" + ("" if lag_s is None else f", nobody was heard of for {span(lag_s)}")
