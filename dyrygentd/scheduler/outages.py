"""What keeps the whole scheduler from its work, in the words that go before all else that is said of a workflow."""

from collections.abc import Iterable
from shlex import quote
from typing import NamedTuple, Self

from dyrygentd.advice import step_after
from dyrygentd.ports.facts import BROKER_SILENT


class Outages(NamedTuple):
    """Why the disk, the broker and the result backend cannot be used; empty if they can."""

    disk: str = ""
    broker: str = ""
    results: str = ""

    @classmethod
    def of(cls, troubles: Iterable[tuple[str, str]]) -> Self:
        """Take the first of each place from ``(disk, broker or backend, why)``."""
        first = dict(reversed([*troubles]))
        return cls(first.get("disk", ""), first.get("broker", ""), first.get("backend", ""))

    def seen_by(self, problems: Iterable[str]) -> Self:
        """Add what whoever asked the broker just now was answered, if that is known to keep us from sending, too."""
        refused = [words for words in problems if words.startswith(BROKER_SILENT) and step_after(words, "", "")]
        return self if self.broker or not refused else self._replace(broker=refused[0])

    @property
    def headlines(self) -> list[str]:
        """What goes first in an answer about anything that is under way."""
        return [problem.rstrip(".") for problem in self if problem]

    def next_step(self, workflow_id: str) -> str:
        """Say what can be done about the first of them."""
        if self.disk:
            return "see that the database can be reached, has room and can be written: what waits goes on by itself then"
        if self.broker:
            then = "what waits is sent by itself then"
            return step_after(self.broker, "the broker", then) or f"bring the broker back: {then}"
        if self.results:
            back = step_after(self.results, "the result backend", "it goes on by itself") or "bring the result backend back"
            return (
                f"{back}; workers that cannot store results may drop tasks meanwhile:"
                f" `dyrygentctl pause {quote(workflow_id)}` sends them no more until it is resumed"
            )
        return ""
