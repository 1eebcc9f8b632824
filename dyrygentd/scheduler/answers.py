"""The parts that answer those who ask, put together: of a scheduler over its engine, of a deputy over its mirror."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dyrygentd.ports import Clock, Store
from dyrygentd.scheduler.archive import Archive
from dyrygentd.scheduler.estimates import Estimates
from dyrygentd.scheduler.explanations import Explanations, Sources
from dyrygentd.scheduler.faces import Faces
from dyrygentd.scheduler.families import Families
from dyrygentd.scheduler.folds import Folds
from dyrygentd.scheduler.limits import Pace, SchedulerLimits
from dyrygentd.scheduler.listeners import Listeners
from dyrygentd.scheduler.log_links import LogLinks
from dyrygentd.scheduler.overview import Overviews
from dyrygentd.scheduler.queries import Queries
from dyrygentd.scheduler.redaction import Redaction
from dyrygentd.scheduler.sight import Sight


class Answers(NamedTuple):
    """What answers: about workflows and nodes, about all of them at one look, and what shows them to people."""

    queries: Queries
    overviews: Overviews
    faces: Faces


def answers_of(
    sight: Sight,
    around: Sources,
    *,
    store: Store,
    clock: Clock,
    archive: Archive,
    listeners: Listeners,
    redaction: Redaction,
    folds: Folds,
    estimates: Estimates,
    troubles: Callable[[], Sequence[tuple[str, str]]],
    notices: Callable[[], Sequence[str]],
    limits: SchedulerLimits,
    pace: Pace,
) -> Answers:
    """Make what answers about the workflows in sight.

    Args:
        around: What there is to ask beside them.
        troubles: Tells what is wrong, each with where it is.
        notices: Tells what is to be known, and nothing has to be done about.
    """
    families = Families(sight, store)
    queries = Queries(
        sight,
        store=store,
        archive=archive,
        listeners=listeners,
        clock=clock,
        redaction=redaction,
        explanations=Explanations(sight, store, clock=clock, around=around),
        problems=around.problems,
        follow_interval_s=limits.follow_interval_s,
        still_running=around.still_running,
        folds=folds,
        log_links=LogLinks(limits.logs_url, limits.logs_margin_s),
        families=families,
    )
    overviews = Overviews(
        sight,
        store=store,
        clock=clock,
        around=around,
        troubles=troubles,
        notices=notices,
        young_s=pace.young_s,
        queued_long_s=pace.queued_long_s,
    )
    faces = Faces(
        queries.unpacked,
        folds,
        estimates,
        families=families,
        clock=clock,
        sight=sight,
        listeners=listeners,
        follow_interval_s=limits.follow_interval_s,
    )
    return Answers(queries, overviews, faces)
