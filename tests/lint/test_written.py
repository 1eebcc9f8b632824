"""What Celery does in another way is found in a canvas as it was written, and what it does too is left alone."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import chain, chord, group

from dyrygentd.lint import lint
from tests.lint.support import NONE, ONE, TWO, a, add, app, b, c, chord_of, codes, container, d, e, f, failing, only, waiting


@pytest.mark.parametrize(
    ("code", "what", "place"),
    [
        ("chain-of-groups", chain(group(a, b), group(c, d), group(e, f)), "step 2 of the chain"),
        ("chain-of-groups", chain(chord([a, b], group(c, d)), chord([e, f], a)), "step 2 of the chain"),
        ("chain-of-groups", container("chain", [TWO, TWO, TWO]), "step 3 of the chain"),
        ("nested-group-order", chord([a, group(b, c, d), e], f), "member 2 of the chord's header"),
        (
            "nested-group-order",
            container("chain", [container("group", [a, TWO]), f]),
            "step 1 of the chain, member 2 of the group",
        ),
        ("chord-of-chain-parallel", chord_of(container("chain", [a, b]), c), ""),
        ("one-member-group-unrolled", container("chain", [a, ONE, b]), "step 2 of the chain"),
        ("empty-group-in-chain", container("chain", [a, NONE, b]), "step 2 of the chain"),
        ("inner-container-options", group(group(a, b).set(queue="q"), c), "member 1 of the group"),
        ("inner-container-options", container("group", [container("group", [a, b], link=[c])]), "member 1 of the group"),
        ("link-error-added", group(failing(a), b).set(link_error=[f]), "member 1 of the group"),
        ("header-link-error", chord([a, b], failing(c)), ""),
        ("chain-options-first-task", chain(a, b).set(queue="q"), ""),
        ("chain-options-first-task", group(chain(a, b).set(countdown=3), c), "member 1 of the group"),
        ("ignore-result-forced", a.clone().set(ignore_result=True), ""),
        ("countdown-in-daemon", a.clone().set(countdown=5), ""),
        ("countdown-in-daemon", a.clone().set(eta=datetime.now(UTC) + timedelta(hours=1)), ""),
        ("chain-ends-in-group", chord([chain(a, group(b, c)), d], e), "member 1 of the chord's header"),
        ("empty-header", a | group([]) | b, "step 2 of the chain"),
        ("group-options-override", group(a.clone().set(queue="p"), b).set(queue="q"), "member 1 of the group"),
        ("native-chain-cost", container("chain", [a] * 1001), ""),
        ("native-chord-cost", chain(*[chord([a] * 300, b) for _ in range(4)]), "step 1 of the chain"),
        ("native-chord-cost", chord([chord([a] * 1000, b), c], d), "member 1 of the chord's header"),
    ],
)
def test_difference_to_celery_is_found(code: str, what: Any, place: str) -> None:
    """Somebody who moves a canvas over learns where it will not run as before, and where in the canvas that is."""
    finding = only(what, code)
    assert (finding.count, finding.place) == (1, place)
    assert finding.next_step


@pytest.mark.parametrize(
    ("code", "what"),
    [
        # Celery runs each step once if a task leads the chain, or follows the groups.
        ("chain-of-groups", chain(a, group(a, b), group(c, d), group(e, f))),
        ("chain-of-groups", chain(group(a, b), group(c, d), group(e, f), a)),
        ("chain-of-groups", chain(group(a, b), group(c, d))),
        ("chain-of-groups", container("chain", [TWO, TWO, TWO, a])),
        # Nobody takes the list, or there is nothing to reverse.
        ("nested-group-order", group(a, group(b, c, d))),
        ("nested-group-order", chord([a, group(b, c, d)], waiting(e))),
        ("nested-group-order", container("chain", [container("group", [a, ONE]), f])),
        ("chord-of-chain-parallel", chord([container("chain", [a, b])], c)),
        ("one-member-group-unrolled", container("chain", [a, TWO, b])),
        ("one-member-group-unrolled", container("chain", [a, ONE])),
        ("one-member-group-unrolled", chord_of(ONE, b)),
        ("empty-group-in-chain", container("chain", [a, TWO, b])),
        # Celery keeps the options of a chain in a group, and of a group at the end of a chain.
        ("inner-container-options", group(chain(a, b).set(queue="q"), c)),
        ("inner-container-options", chain(a, group(b, c).set(queue="q"))),
        ("link-error-added", group(a, failing(b))),
        ("header-link-error", chord([failing(a), b], c)),
        ("chain-options-first-task", chain(a, b)),
        ("chain-options-first-task", container("chain", [a], queue="q")),
        ("ignore-result-forced", a.clone().set(ignore_result=False)),
        ("countdown-in-daemon", a.clone().set(eta=datetime(2001, 1, 1, tzinfo=UTC))),
        ("chain-ends-in-group", group(chain(a, group(b, c)), d)),
        ("empty-header", chord([a], b)),
        ("group-options-override", group(a.clone().set(queue="q"), b.clone().set(priority=1)).set(queue="q")),
        ("native-chain-cost", container("chain", [a] * 1000)),
        ("native-chord-cost", group(chord([a] * 600, b), chord([a] * 600, b))),
    ],
)
def test_what_celery_does_too_is_left_alone(code: str, what: Any) -> None:
    """A warning that does not apply costs more trust than ten that do are worth."""
    assert code not in codes(what)


@pytest.mark.parametrize("tasks", [-1, "ab"])
def test_what_is_no_list_is_not_told_to_be_empty(tasks: Any) -> None:
    """Whoever reads of an empty group looks for another mistake than the one that was made."""
    assert codes(container("chain", [a, container("group", tasks), b])) == {"not-a-canvas": 1}


def test_frozen_canvas() -> None:
    """Whoever froze a canvas, or chose an id, has it once: a second submission is refused. What a worker leaves is not used."""
    assert "'order-1' is kept" in only(a.clone().set(task_id="order-1"), "ids-kept").message
    frozen = chain(a.clone(), b.clone())
    frozen.freeze()
    assert {"ids-kept"} == codes(frozen).keys() & {"ids-kept", "ids-stripped"}
    assert "`group_id`" in only(a.clone().set(group_id="g"), "ids-stripped").message
    assert not {"ids-kept", "ids-stripped"} & codes(chain(a.clone(), b.clone())).keys()


def test_chunks_and_joins_do_not_shift_the_places() -> None:
    """Nodes are found in the canvas by their order: containers that become several nodes, or none, must be counted right."""
    canvas = group(add.chunks([(1, 2)] * 7, 3), chain(group(a, b), container("chain", []), c), add.s(1))
    assert only(canvas, "arguments-do-not-fit", app=app).place == "member 3 of the group"


@pytest.mark.parametrize("kind", ["chain", "group"])
def test_depth_costs_no_recursion(kind: str) -> None:
    """Programs build canvases deeper than Python's stack."""
    canvas: Any = dict(a)
    other = b.clone().set(queue=5)
    for _ in range(5_000):
        canvas = container(kind, [canvas, other])
    finding = only(canvas, "bad-option")
    assert finding.count == 5_000
    assert finding.place.startswith("step 1 of the chain, " if kind == "chain" else "member 1 of the group, ")
    assert ", …, " in finding.place


def test_nested_chords_cost_no_recursion() -> None:
    """The same for headers and bodies."""
    canvas: Any = dict(a)
    for number in range(5_000):
        canvas = chord_of([canvas], dict(b)) if number % 2 else chord_of([dict(a)], canvas)
    assert "native-chord-cost" in codes(canvas)


def test_ten_thousand_tasks_give_a_short_report() -> None:
    """A report is read by a person, whatever the size of the canvas."""
    canvases = [group(add.s(number, 1) for number in range(10_000)), container("chain", [add.s(1)] * 10_000)]
    for canvas in canvases:
        assert len(lint(canvas, app=app, known_tasks=["t.add"], known_queues=["celery"])) < 10
