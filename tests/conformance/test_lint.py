"""`lint` reports each known difference of each canvas of the corpus, and no other."""

from functools import cache
from typing import Final

import pytest

from dyrygentd.lint import lint
from dyrygentd.lint.differences import DIFFERENCES, Difference
from tests.conformance.corpus import CORPUS, Case
from tests.conformance.tasks import create_app
from tests.conformance.test_corpus import VERSION, _canvas

#: Canvases that differ in their messages only, of which there is nothing to say.
_HARMLESS: Final = {("eta in the past", "countdown-in-daemon")}

#: Canvases that would show it if another of their tasks failed.
_ELSEWHERE: Final = {
    ("link_error on a body that succeeds", "body-chain-link-error"),
    ("link_error on a body in a chain, body fails", "body-chain-link-error"),
    ("link_error on a body in a chain, what follows fails", "body-chain-link-error"),
}


@cache
def _found() -> list[tuple[Case, set[str]]]:
    app = create_app("memory://", "cache+memory://")
    return [(case, {finding.code for finding in lint(_canvas(case, app), app=app)}) for case in CORPUS]


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.key)
def test_difference_is_reported(difference: Difference) -> None:
    """Whoever moves a canvas over learns of each difference that can be seen, and is not warned of one that is not there."""
    missed, wrong = [], []
    for case, codes in _found():
        marks = {mark.rpartition(":")[2]: mark.rpartition(":")[0] for mark in case.shows}
        is_marked = difference.key in marks
        is_there = is_marked and marks[difference.key] in ("", VERSION) and VERSION in difference.versions
        is_reported = difference.key in codes
        if is_there and not is_reported and not difference.unseen and (case.name, difference.key) not in _HARMLESS:
            missed.append(case.name)
        is_elsewhere = (case.name, difference.key) in _ELSEWHERE
        if is_reported and not is_marked and not is_elsewhere and not difference.is_surprise:
            wrong.append(case.name)
    assert (missed, wrong) == ([], [])
