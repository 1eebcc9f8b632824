"""Each hand-written canvas through Celery and through us: the same, but for the known differences, which must be there."""

import os
import warnings
from collections.abc import Iterator
from typing import Any, Final

import celery
import pytest

from dyrygentd.lint.differences import BY_KEY, DIFFERENCES
from tests.conformance.corpus import CORPUS, Case
from tests.conformance.orders import broken_orders, orders_of
from tests.conformance.runs import Seen, Site, Tasks, running_site
from tests.support.size import of_size

pytestmark = pytest.mark.integration

VERSION: Final = ".".join(celery.__version__.split(".")[:2])
#: Part of the name of the cases to run; all if empty.
_ONLY: Final = os.environ.get("DYRYGENTD_TEST_CONFORMANCE_ONLY", "")


def test_corpus_has_every_difference() -> None:
    """Each row of the list has a canvas that shows it, else nobody would notice that it is no longer true."""
    shown = {key.rpartition(":")[2] for case in CORPUS for key in case.shows}
    assert shown == BY_KEY.keys()
    assert len(BY_KEY) == len(DIFFERENCES)
    names = [case.name for case in CORPUS]
    assert len(set(names)) == len(names) >= 130


# One test and not one for each canvas: all of them share the workers, and run at the same time.
@pytest.mark.timeout(300)
def test_corpus() -> None:
    """Celery and we agree on each canvas in value, calls and order, or differ as it is written down."""
    # Neighbours are variants of each other.
    cases = [case for case in CORPUS if _ONLY in case.name] if _ONLY else CORPUS[:: of_size(2, 1)]
    with running_site() as site:
        runs = site.run([case.make for case in cases])
        orders = [list(orders_of(_canvas(case, site.app))) for case in cases]
        complaints = [
            f"{case.name}: {complaint}\n    Celery: {native.story}\n    ours:   {ours.story}"
            for case, (native, ours), each in zip(cases, runs, orders, strict=True)
            for complaint in _complaints(case, native, ours, each)
            if not _is_celerys_race(site, case, ours, each)
        ]
    assert not complaints, f"{len(complaints)} of {len(cases)} canvases on Celery {VERSION}:\n" + "\n".join(complaints)


def _is_celerys_race(site: Site, case: Case, ours: Seen, orders: Any) -> bool:
    """Run a canvas once more; tell whether ours does the same again and Celery what is expected, so that Celery varies."""
    ((native, again),) = site.run([case.make])
    return again.outcome == ours.outcome and not list(_complaints(case, native, again, orders))


def _complaints(case: Case, native: Seen, ours: Seen, orders: Any) -> Iterator[str]:
    is_same = native.outcome == ours.outcome and native.counted == ours.counted
    differences = [key.rpartition(":")[2] for key in case.shows if _is_seen(key)]
    # What 5.6 makes of these depends on which of its processes is faster, too: one in some runs comes out right.
    is_racy = case.is_racy or "broken-in-5.6" in case.shows
    if differences and is_same and is_racy:
        pass
    elif case.pending and is_same:
        yield f"'{case.pending}' works now: remove the mark"
    elif differences and is_same:
        yield f"the known difference {', '.join(differences)} is no more"
    elif not differences and not case.pending and not is_same:
        yield "differs"
    if case.ours and ours.outcome != case.ours:
        yield f"ours should be {case.ours}"
    if ours.state == "hangs" or (ours.state == "refused" and ours.outcome != case.ours):
        yield "ours does not run"
    if broken := broken_orders(ours.calls, orders):
        yield f"ours is out of order: {'; '.join(broken)}"
    if not differences and (broken := broken_orders(native.calls, orders)):
        yield f"Celery is out of order: {'; '.join(broken)}"


def _is_seen(key: str) -> bool:
    """Tell whether a difference is to be seen on this version; a surprise is the same on both sides."""
    version, _, name = key.rpartition(":")
    difference = BY_KEY[name]
    return not difference.is_surprise and VERSION in difference.versions and version in ("", VERSION)


def _canvas(case: Case, app: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return case.make(Tasks(app, "order"))
