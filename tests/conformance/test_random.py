"""Hundreds of random canvases through Celery and through us, against a model that knows neither.

``DYRYGENTD_TEST_CONFORMANCE_SEED`` chooses the seed, ``..._COUNT`` how many, ``..._INDEX`` a single one; all three are in the
message of a failure.
"""

import os
import random
from collections.abc import Iterator, Sequence
from typing import Final

import pytest

from tests.conformance.orders import Order, broken_orders, orders_of
from tests.conformance.randomly import Expected, Tree, build, differences_of, draw, expected_of, shown
from tests.conformance.runs import Factory, Seen, Tasks, running_site
from tests.conformance.test_corpus import VERSION

pytestmark = pytest.mark.integration

#: Fixed, so that CI does not fail one day in ten over a bug of Celery's that nobody has met before; ``random`` draws one.
_SEED_GIVEN: Final = os.environ.get("DYRYGENTD_TEST_CONFORMANCE_SEED", "1")
_SEED: Final = random.randrange(1_000_000) if _SEED_GIVEN == "random" else int(_SEED_GIVEN)
_COUNT: Final = int(os.environ.get("DYRYGENTD_TEST_CONFORMANCE_COUNT", "500"))
_INDEX: Final = os.environ.get("DYRYGENTD_TEST_CONFORMANCE_INDEX")
#: At least this share of the canvases must be compared with Celery, else the known differences would hide everything.
_COMPARED_MIN: Final = 0.4
#: Celery has more bugs in deep nests than the list of differences tells. A canvas on which we and the model agree and Celery does
#: not is one of them, and belongs into the list or is a rule that we have misread; a search with other seeds may let some pass.
_ODD_MAX: Final = float(os.environ.get("DYRYGENTD_TEST_CONFORMANCE_ODD_MAX", "0"))
_SHOWN_MAX: Final = 10


def test_drawing_is_reproducible() -> None:
    """The same seed and index give the same canvas, whatever is drawn besides."""
    assert draw(7, 3) == draw(7, 3)
    assert draw(7, 3) != draw(7, 4) or draw(7, 3) != draw(8, 3)


@pytest.mark.long
@pytest.mark.timeout(max(600, 2 * _COUNT))
def test_random_canvases() -> None:
    """Ours does what the model says, always; Celery does the same where no known difference applies."""
    indexes = range(_COUNT) if _INDEX is None else [int(_INDEX)]
    trees = [draw(_SEED, index) for index in indexes]
    # Where a known difference applies, nothing is compared with Celery, and some of them are many tasks for it.
    spared = {place for place, tree in enumerate(trees) if differences_of(tree, VERSION) - {"failure-hangs"}}
    assert len(trees) - len(spared) >= _COMPARED_MIN * len(trees) or _INDEX is not None
    wrong, odd = [], []
    with running_site() as site:
        runs = site.run([_factory(tree) for tree in trees], not_natively=spared)
        for place, (index, tree, (native, ours)) in enumerate(zip(indexes, trees, runs, strict=True)):
            canvas = build(tree, Tasks(site.app, "order"))
            expected, orders = expected_of(canvas), list(orders_of(canvas))
            place_of_it = f"DYRYGENTD_TEST_CONFORMANCE_SEED={_SEED} DYRYGENTD_TEST_CONFORMANCE_INDEX={index}"
            told = f"    {shown(tree)}\n    model:  {expected.story}\n    Celery: {native.story}\n    ours:   {ours.story}"
            wrong += [f"{place_of_it}: ours {complaint}\n{told}" for complaint in _complaints_of_ours(expected, ours, orders)]
            if place not in spared:
                complaints = list(_complaints_of_celery(expected, native, orders))
                odd += [f"{place_of_it}: Celery {', '.join(complaints)}\n{told}"] if complaints else []
    assert not wrong, f"{len(wrong)} complaints on Celery {VERSION}:\n" + "\n".join(wrong[:_SHOWN_MAX])
    assert len(odd) <= _ODD_MAX * len(trees), f"{len(odd)} canvases on Celery {VERSION}:\n" + "\n".join(odd[:_SHOWN_MAX])


def _complaints_of_ours(expected: Expected, ours: Seen, orders: Sequence[Order]) -> Iterator[str]:
    if ours.outcome != expected.outcome or ours.counted != expected.calls:
        yield "is not what the model says"
    if broken := broken_orders(ours.calls, orders):
        yield f"is out of order: {'; '.join(broken)}"


def _complaints_of_celery(expected: Expected, native: Seen, orders: Sequence[Order]) -> Iterator[str]:
    if native.counted != expected.calls:
        yield "calls something else"
    if broken := broken_orders(native.calls, orders):
        yield f"is out of order: {'; '.join(broken)}"
    if not expected.failed:
        if native.outcome != expected.outcome:
            yield "has another value"
    # Celery names the first of several that failed, if it does not hang.
    elif native.state != "hangs" and not (native.state == "failed" and {*native.detail.split()} <= expected.failed):
        yield "fails differently"


def _factory(tree: Tree) -> Factory:
    return lambda t: build(tree, t)
