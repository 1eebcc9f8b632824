"""The verdict "lost" against every hand-over that a message makes, with the looks of an inspector at any moments in between.

A small model of one task: its message in the queue, popped and not yet booked (celery#4354), reserved, executed after an early or
a late acknowledgement, sent again by its worker for a retry, put back when a worker stops warmly, delivered again after the
visibility timeout, and gone with a killed worker. The places are looked at in the order of `dyrygentd.transport.inspector`.
"""

import os
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from dyrygentd.ports.facts import Inspection, QueueFacts, TaskFacts
from dyrygentd.scheduler.whereabouts import whereabouts_of
from tests.support.size import of_size

_TASK = "t"
_EXAMPLES = 300 if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else of_size(20, 80)


@dataclass
class Life:
    """Where a task is; it is gone when it is nowhere and has no result.

    Attributes:
        is_mute: The worker answers nobody; its connection is there for all to see.
        backward_left: How often it may still be put back: between two looks half a minute apart that happens once, if at all.
    """

    acks_late: bool
    backward_left: int
    in_queue: bool = True
    is_popped: bool = False
    reservations: set[str] = field(default_factory=set)
    at_worker: str = ""
    has_worker: bool = True
    state: str = ""
    tag: int = 1
    is_mute: bool = False

    @property
    def is_gone(self) -> bool:
        """Whether it will never run again and has not ended."""
        return self.state not in ("SUCCESS", "FAILURE") and not (
            self.in_queue or self.is_popped or self.reservations or self.at_worker
        )

    def steps(self) -> list[str]:
        """Return what may happen next."""
        found = ["nothing"]
        if self.has_worker:
            found += ["fetch"] if self.in_queue else []
            found += ["book", "kill"] if self.is_popped else []
            found += ["start", "kill"] if self.at_worker in ("reserved", "scheduled") else []
            found += ["put back"] if self.at_worker == "reserved" and self.backward_left else []
            found += ["end", "retry", "kill"] if self.at_worker == "active" else []
        else:
            found += ["deliver again"] if self.reservations and self.backward_left else []
            found += ["new worker"]
        return found

    def step(self, what: str) -> None:
        """Let it happen."""
        match what:
            case "fetch":
                self.in_queue, self.is_popped = False, True
            case "book":
                self.is_popped, self.at_worker = False, "reserved" if self.state != "RETRY" else "scheduled"
                self.reservations.add(f"tag{self.tag}")
            case "start":
                self.at_worker = "active"
                if not self.acks_late:
                    self.reservations.clear()
            case "end":
                self.state, self.at_worker = "SUCCESS", ""
                self.reservations.clear()
            case "retry":
                # The worker sends it again before it lets go of the first message.
                self.state, self.in_queue, self.at_worker, self.tag = "RETRY", True, "", self.tag + 1
                self.reservations.clear()
            case "put back":
                self.backward_left -= 1
                self.reservations.clear()
                self.in_queue, self.at_worker, self.has_worker = True, "", False
            case "kill":
                self.is_popped, self.at_worker, self.has_worker = False, "", False
            case "deliver again":
                self.backward_left -= 1
                self.reservations.clear()
                self.in_queue = True
            case "new worker":
                self.has_worker = True


def _look(life: Life, data: st.DataObject) -> str:
    """Look into all places, one after the other, while the task goes on; return the verdict."""

    def pass_time() -> None:
        for _ in range(data.draw(st.integers(0, 3))):
            life.step(data.draw(st.sampled_from(life.steps())))

    pass_time()
    position = 0 if life.in_queue else None
    pass_time()
    is_reserved = bool(life.reservations)
    pass_time()
    connected = int(life.has_worker)
    pass_time()
    is_answering = life.has_worker and not life.is_mute
    at_worker, workers = life.at_worker if is_answering else "", ["w"] if is_answering else []
    # A worker answers between two of its steps: what it has popped is booked by then.
    if life.is_popped and is_answering:
        life.step("book")
        at_worker = life.at_worker
    pass_time()
    state = life.state
    pass_time()
    position = 0 if life.in_queue else position
    pass_time()
    is_reserved = is_reserved or bool(life.reservations)
    facts = TaskFacts(
        _TASK,
        "q",
        position=position,
        is_reserved=is_reserved,
        worker="w" if at_worker else "",
        worker_state=at_worker,  # type: ignore[arg-type]
        stored_state=state,
    )
    queue = QueueFacts("q", int(life.in_queue), len(workers), workers, is_searched=True)
    inspection = Inspection({_TASK: facts}, {"q": queue}, workers=workers, listening=len(workers), connected=connected)
    return whereabouts_of(inspection, _TASK, now=0.0).code


@settings(max_examples=5 * _EXAMPLES, deadline=None, derandomize=True)
@given(data=st.data(), acks_late=st.booleans(), is_mute=st.booleans())
def test_two_looks_call_nothing_lost_that_exists(data: st.DataObject, acks_late: bool, is_mute: bool) -> None:
    """What two looks found nowhere is nowhere, wherever it was on its way, if it was put back once at most."""
    life = Life(acks_late, backward_left=1, is_mute=is_mute)
    for _ in range(data.draw(st.integers(0, 8))):
        life.step(data.draw(st.sampled_from(life.steps())))
    life.backward_left = min(life.backward_left, 1)
    if _look(life, data) == "lost" and _look(life, data) == "lost":
        assert life.is_gone or life.state == "SUCCESS", life


@settings(max_examples=2 * _EXAMPLES, deadline=None, derandomize=True)
@given(data=st.data(), acks_late=st.booleans())
def test_what_is_gone_is_found(data: st.DataObject, acks_late: bool) -> None:
    """A task that has vanished is called lost by every look after that, whoever runs by then."""
    life = Life(acks_late, backward_left=1)
    for _ in range(data.draw(st.integers(0, 12))):
        life.step(data.draw(st.sampled_from(life.steps())))
    if life.is_gone:
        assert _look(life, data) == "lost"
        assert _look(life, data) == "lost"


def test_one_look_is_not_enough() -> None:
    """A message that is put back and fetched again between the looks is missed by one of them: hence the second."""

    class Script:
        """Steps at the gaps of a look, in order: none before the queue, fetched after it, and so on."""

        def __init__(self, *gaps: list[str]) -> None:
            self._draws = [draw for gap in gaps for draw in (len(gap), *gap)]

        def draw(self, _: object) -> object:
            return self._draws.pop(0)

    life = Life(False, 1)
    for step in ("fetch", "book"):
        life.step(step)
    # It is put back before the reservations are looked at, and executed by another worker before the queue is looked at again.
    script = Script([], ["put back"], ["new worker"], [], ["fetch", "book"], ["start"], [])
    assert _look(life, script) == "lost"  # type: ignore[arg-type]
    assert life.at_worker == "active"
    assert _look(life, Script([], [], [], [], [], [], [])) == "running"  # type: ignore[arg-type]
