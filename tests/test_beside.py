"""What computes beside the loop gives way to it, and leaves the process as it was."""

import gc
import sys

import anyio
import pytest

from dyrygentd.beside import SWITCH_S, giving_way, in_thread

pytestmark = pytest.mark.anyio


async def test_the_interpreter_is_given_up_sooner_meanwhile() -> None:
    """However many compute, and however they end, the setting is that of the program afterwards."""
    before, thresholds = sys.getswitchinterval(), gc.get_threshold()
    seen: list[float] = []

    def compute(result: int) -> int:
        seen.append(sys.getswitchinterval())
        assert gc.get_threshold()[:2] == thresholds[:2]
        assert gc.get_threshold()[2] > 1000 * thresholds[2]
        return 10 // result

    async with anyio.create_task_group() as tasks:
        for number in (1, 2, 5):
            tasks.start_soon(in_thread, compute, number)
    assert await in_thread(compute, 2) == 5
    with pytest.raises(ZeroDivisionError):
        await in_thread(compute, 0)
    assert seen == [pytest.approx(SWITCH_S)] * 5
    assert sys.getswitchinterval() == pytest.approx(before)
    assert gc.get_threshold() == thresholds


def test_a_program_that_gives_it_up_sooner_does_so_still() -> None:
    """Whoever embeds a scheduler may have chosen an own time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    try:
        with giving_way(), giving_way():
            assert sys.getswitchinterval() == pytest.approx(0.0001, abs=2e-6)
        assert sys.getswitchinterval() == pytest.approx(0.0001, abs=2e-6)
    finally:
        sys.setswitchinterval(before)
