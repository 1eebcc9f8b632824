"""What is wrong, and what waits for a person, in all workflows: the answer to `explain` without a reference."""

from msgspec import Struct

from dyrygentd.wire.plain import View


class OverviewItem(Struct, View, omit_defaults=True):
    """One thing that is wrong, waits, or is good to know.

    Attributes:
        kind: ``problem`` (keeps the daemon from its work), ``notice``, ``person`` (goes on only when somebody says so),
            ``stuck`` (in flight, and will not go on by itself, or has not for long), ``failed`` (lately, or again and again),
            ``busy`` (a bound is reached).
        code: A stable word for programs: ``disk``, ``broker``, ``backend``, ``daemon``; ``lost``, ``gate``, ``hold``, ``paused``;
            ``no-consumer``, ``orphaned``, ``queued``, ``unknown``, ``running``, ``redelivered``;
            ``keeps-failing``, ``failing``, ``failed``; ``pool``, ``in-flight``.
        text: What is the case, in words; times of day in it are UTC.
        workflow, name: Id and name of the workflow, if it is about one; of what is full, one that waits for it.
        root_name: If that one is below another workflow, the name of the uppermost, as people know it.
        nodes: Names of the first few nodes.
        count: How many nodes it is about.
        since: Since when, in Unix seconds, if that is known.
        next_steps: What a person can do: commands to paste, or words.
    """

    kind: str
    code: str
    text: str
    workflow: str = ""
    name: str = ""
    nodes: list[str] = []
    count: int = 0
    since: float | None = None
    next_steps: list[str] = []
    root_name: str = ""


class Overview(Struct, View):
    """What is wrong with the daemon and what it depends on, what waits for a person, what is stuck, and what has failed lately.

    Attributes:
        status: ``ok`` if there is nothing to do, ``attention`` if something waits for a person, is stuck, or has failed lately,
            ``problem`` if something keeps the daemon from its work.
        verdict: The answer in one sentence.
        at: When it was looked.
        workflows, in_flight: Workflows that have not finished; tasks in the broker or at workers.
        items: In the order of their kinds, those first for which somebody can do something.
        left_out: ``{"kind code": number}`` of items that are not shown; of ``failed failed`` there are as many or more.
        problems: What keeps the daemon from its work, or could not be found out.
    """

    status: str
    verdict: str
    at: float
    workflows: int
    in_flight: int
    items: list[OverviewItem]
    left_out: dict[str, int] = {}
    problems: list[str] = []
