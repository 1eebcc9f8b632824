"""Bounds that change while they are in force: by an event, and only those that may."""

from dataclasses import fields, replace

from dyrygentd.core.engine import Engine
from dyrygentd.core.events import LimitsChanged
from dyrygentd.core.limits import Limits, following

_OTHERS = Limits(**{each.name: getattr(Limits(), each.name) + 1 for each in fields(Limits)})


def test_only_live_bounds_follow() -> None:
    """What the parts of an engine were made with would not change with it."""
    assert following(Limits(), _OTHERS) == replace(Limits(), in_flight_max=_OTHERS.in_flight_max)


def test_engine_is_told_by_an_event() -> None:
    """One owner changes the engine, in a turn, and whoever asks it what holds is told what it goes by."""
    engine = Engine()
    engine.handle(LimitsChanged(_OTHERS), 0.0)
    assert engine.limits == following(Limits(), _OTHERS)
    assert engine.next_deadline() == 0.0


def test_few_places_are_filled_one_at_a_time() -> None:
    """Filling up together must not leave the only places empty."""
    assert [Limits(in_flight_max=most).refill for most in (1, 20, 2000)] == [1, 1, 100]
