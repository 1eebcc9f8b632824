"""A clock that a test moves, which keeps the contract of `dyrygentd.ports.SteadyClock`."""


class FakeClock:
    """Time passes with `pass_time`, and `set_by` is somebody who sets the clock.

    Args:
        start: What it says at first, as Unix time.
    """

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start
        self._steady = 500.0

    def __repr__(self) -> str:
        return f"<FakeClock now={self._now}>"

    def now(self) -> float:
        """Return what the clock on the wall says."""
        return self._now

    def steady(self) -> float:
        """Return for how long the machine runs."""
        return self._steady

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds
        self._steady += seconds

    def set_by(self, seconds: float) -> None:
        """Set the clock; no time passes."""
        self._now += seconds

    def restart_machine(self) -> None:
        """Have the machine start anew, so that only what the wall says goes on."""
        self._steady = 0.0
