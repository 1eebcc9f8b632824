"""The report: what is said of each code, and findings folded, so that a large canvas does not make a long report."""

from collections import Counter
from dataclasses import dataclass
from typing import Final, NamedTuple

from dyrygentd.core.node_spec import SERIALIZERS
from dyrygentd.lint.differences import BY_KEY
from dyrygentd.lint.faults import Fault, Severity

_SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "info")

_PLACES_MAX: Final = 3
"""Places shown of a finding that occurs often."""

_SUBJECTS_MAX: Final = 5
"""LintReport of one code that are told apart (by task, queue, option …); the rest of them is one finding."""

_PATH_MAX: Final = 6
"""Containers named in a place; of a deeper one the middle is left out."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about a canvas.

    Attributes:
        code: A stable word for programs.
        severity: ``error`` cannot work, ``warning`` may not do what was meant, ``info`` is worth knowing.
        place: Where it is in the canvas, in words; the first few places if there are several.
        node: Name of the first node concerned, if it is one.
        message: What it is. Where Celery differs, a line for Celery and a line for this program.
        next_step: What to do about it.
        count: How often it occurs.
    """

    code: str
    severity: Severity
    place: str
    node: str | None
    message: str
    next_step: str
    count: int


class Advice(NamedTuple):
    """What is said of all findings of one code."""

    severity: Severity
    next_step: str


#: Severity and next step of each code.
ADVICE: Final = {
    "chain-of-groups": Advice("warning", "nothing, if it is meant to run once; else write a chain into each member of a group"),
    "nested-group-order": Advice("warning", "check that the task that takes the list does not count on Celery's order"),
    "chord-of-chain-parallel": Advice("warning", "write `chord([chain], body)` for a chain that runs in sequence"),
    "one-member-group-unrolled": Advice("warning", "use a chord, whose body takes a list even of one value"),
    "empty-group-in-chain": Advice("warning", "leave the group out, or give it a member"),
    "inner-container-options": Advice("warning", "set them on the tasks, which is the same everywhere"),
    "link-error-added": Advice("info", "nothing, if both are to be called"),
    "header-link-error": Advice("info", "set `link_error` on the tasks of the header too"),
    "chain-options-first-task": Advice("warning", "set them on each task that is to have them"),
    "group-arguments": Advice("warning", "set them on the members, which is the same everywhere"),
    "chord-errback-as-task": Advice("warning", "give the body an error callback that takes one argument, the task id"),
    "body-chain-link-error": Advice("info", "nothing, if it is to be called when the header fails"),
    "add-to-chord": Advice("error", "import `dyrygentd.worker` in the workers' app"),
    "chord-without-body": Advice("info", "write a group, which is the same everywhere"),
    "group-first-in-member": Advice("warning", "build the chain with `|` or `chain()`, if Celery is to run it too"),
    "group-body-of-containers": Advice("info", "nothing, if it is submitted; do not send it with apply_async"),
    "chord-in-raw-body": Advice("info", "nothing, if it is submitted; build the chain with `|`, if Celery is to run it too"),
    "lazy-group": Advice("warning", "give the group a list, which is the same everywhere"),
    "map-routes": Advice("warning", "set the queue on it, which is the same everywhere"),
    "map-options": Advice("info", "nothing, if they are meant to hold"),
    "ignore-result-forced": Advice("info", "leave `ignore_result` out"),
    "countdown-in-daemon": Advice("info", "nothing: that is how it should be"),
    "own-end": Advice("warning", "store a state of another name, such as PROGRESS, or let workers `import dyrygentd.worker`"),
    "end-untold": Advice("warning", "let workers `import dyrygentd.worker`, or return a value instead"),
    "replaced-unseen": Advice("info", "let workers call `dyrygentd.worker.install(app)`, and what it is replaced by is followed"),
    "retry-untold": Advice("info", "let workers call `dyrygentd.worker.install(app)`, and `explain` says when and why"),
    "own-chain": Advice("warning", "raise `Ignore` to end the chain, and use `self.replace` to add to it"),
    # Celery and this program agree, or only one of them is concerned.
    "chain-ends-in-group": Advice("warning", "end the chain with a task that takes the inner list, such as one that returns it"),
    "empty-header": Advice("warning", "leave the chord out if it has no header, or do not count on the value before it"),
    "group-options-override": Advice("warning", "set the options on the group or on its members, not on both"),
    "ids-kept": Advice("info", "nothing, if it is submitted once; to submit it again, build it anew"),
    "ids-stripped": Advice("info", "submit a canvas that does not come from a worker"),
    "link-untracked": Advice("info", "make it a step of a chain, which is tracked, restarted and shown"),
    "native-chain-cost": Advice("info", "nothing, if it is submitted; do not send it with apply_async"),
    "native-chord-cost": Advice("info", "nothing, if it is submitted; do not send it with apply_async"),
    "huge-list": Advice("warning", "let the tasks store their results and return references, or use `.si()` if it only waits"),
    "beside-finally": Advice("info", "let it wait for the `finally` as well, if it is to run after that"),
    "list-input": Advice("info", "write `.si()` (`immutable: true`) if it only waits for them"),
    "map-item-untaken": Advice("warning", "leave `immutable` out of what comes first in `do`: it is given the item then"),
    "large-arguments": Advice("warning", "store the data elsewhere and pass a reference"),
    "bad-option": Advice("error", "correct the option: the task could not be published"),
    "unknown-option": Advice("warning", "correct the name, or leave it out: it changes nothing"),
    "unreadable-signature": Advice("error", "pass text, numbers, lists and dicts, or a reference to the data"),
    "serializer-refused": Advice("error", f"use one of {', '.join(sorted(SERIALIZERS))}"),
    "unknown-compression": Advice("error", "use gzip, bzip2, lzma or zstd"),
    "priority-range": Advice("warning", "use 0 to 9"),
    "expires-passed": Advice("error", "set `expires` to a time ahead: a worker would revoke the task"),
    "expires-before-start": Advice("warning", "let `expires` be later than the start of the task"),
    "unknown-task": Advice("error", "start the worker that has it, or correct the name"),
    "task-not-at-worker": Advice("error", "restart the workers with one code"),
    "silent-workers": Advice(
        "info", "ask again; one that refuses JSON, has no remote control, or is busy in `solo` does not answer"
    ),
    "other-result-backend": Advice("error", "give the workers and this app one `result_backend`: no result would be seen"),
    "task-not-in-app": Advice("info", "correct the name if it is meant to be there; its arguments were not checked"),
    "unknown-queue": Advice("warning", "start a worker with `--queues`, or correct the name: the task would wait for ever"),
    "routing-failed": Advice("error", "correct `task_routes` and `task_queues` of the app: the task could not be published"),
    "arguments-do-not-fit": Advice("error", "give the arguments that the task takes"),
    "argument-given-twice": Advice("error", "rename the keyword argument, or write `.si()` if the value is not wanted"),
    "apply-async-overridden": Advice("warning", "submit a canvas, or say the same with `.set()`, a route or a signal"),
    "own-backend": Advice("error", "leave `backend` out of its class or decorator: nobody would learn that it is done"),
    "redelivered-for-ever": Advice("info", "set `redeliveries_max` on the node, or for the workflow or the daemon"),
    "limits-crossed": Advice("error", "let the soft limit be the lower one: `apply_async` refuses it too"),
    "values-without-json": Advice("warning", "let such tasks return what JSON can carry, or store it and return a reference"),
    "never-runs": Advice("warning", "correct the conditions; behind branches of which one runs use `rule: none_failed`"),
    "branches-alike": Advice("warning", "let the conditions exclude each other, or hand on what `succeeded`"),
    "when-waits": Advice("info", "nothing, if it is meant; to hand its value on as well, name it in `after`"),
    "unexpected-input": Advice("error", "write `.si()` (`immutable: true`): the task does not take the value before it"),
}

MESSAGES: Final = {
    "native-chain-cost": "a chain of {steps} steps: Celery sends the rest of the chain along with each step",
    "native-chord-cost": "chords that follow or hold each other: Celery sends what follows along with each task of a header",
    "empty-header": "the header of a chord is empty, so its body takes [], in Celery too",
    "chain-ends-in-group": "a chain in a group ends with a group, and somebody takes the values\n"
    "Celery: the value of the chain is a list inside the list\nhere: all values are in one list",
}


def _message(code: str, said: str) -> str:
    difference = BY_KEY.get(code)
    if difference is None:
        return said or MESSAGES.get(code, code)
    link = f" ({difference.link})" if difference.link else ""
    return f"{said or difference.title}\nCelery: {difference.native}{link}\nhere: {difference.ours or 'the same'}"


class Place(NamedTuple):
    """Where something stands; put into words only if it is shown."""

    parent: "Place | None"
    template: str
    number: int = 0

    def words(self) -> str:
        parts: list[str] = []
        place: Place | None = self
        while place is not None:
            if place.template:
                parts.append(place.template.format(place.number))
            place = place.parent
        parts.reverse()
        if len(parts) > _PATH_MAX:
            parts[_PATH_MAX // 2 : -_PATH_MAX // 2] = ["…"]
        return ", ".join(parts)


class _Folded:
    """A finding in the making."""

    __slots__ = ("count", "message", "next_step", "node", "places")

    def __init__(self, node: str | None, message: str, next_step: str) -> None:
        self.node, self.message, self.next_step = node, message, next_step
        self.places: list[str] = []
        self.count = 0


class LintReport:
    """LintReport, folded. Guards: at most `_SUBJECTS_MAX` and one more for each code and severity."""

    def __init__(self) -> None:
        self._folded: dict[tuple[str, Severity, str | None], _Folded] = {}
        self._subjects: Counter[tuple[str, Severity]] = Counter()

    def add(
        self,
        code: str,
        place: Place | None,
        *,
        node: str | None = None,
        subject: str = "",
        said: str = "",
        next_step: str = "",
        severity: Severity | None = None,
    ) -> None:
        """Add a finding; its text is that of the first one with this code and subject."""
        advice = ADVICE.get(code, Advice("error", ""))
        severity = severity or advice.severity
        folded = self._folded.get((code, severity, subject))
        if folded is None:
            folded = self._new(code, severity, subject, node, _message(code, said), next_step or advice.next_step)
        folded.count += 1
        if folded.count <= _PLACES_MAX:
            words = place.words() if place is not None else f"node '{node}'" if node is not None else ""
            if words and words not in folded.places:
                folded.places.append(words)

    def add_fault(self, fault: Fault, place: Place | None, *, node: str | None = None) -> None:
        """Add what is wrong with a node, or, without one, with what it runs on."""
        self.add(
            fault.code,
            place,
            node=node,
            subject=fault.subject,
            said=fault.said,
            next_step=fault.next_step,
            severity=fault.severity,
        )

    def _new(self, code: str, severity: Severity, subject: str, node: str | None, message: str, next_step: str) -> _Folded:
        key: tuple[str, Severity, str | None] = (code, severity, subject)
        self._subjects[code, severity] += 1
        if self._subjects[code, severity] > _SUBJECTS_MAX:
            key = (code, severity, None)
            if key in self._folded:
                return self._folded[key]
            message = f"others like this; the first of them: {message}"
        self._folded[key] = folded = _Folded(node, message, next_step)
        return folded

    def findings(self) -> list[Finding]:
        """Return them, errors first, in the order in which they were met."""
        return [
            Finding(code, severity, _words_of(folded), folded.node, folded.message, folded.next_step, folded.count)
            for wanted in _SEVERITIES
            for (code, severity, _), folded in self._folded.items()
            if severity == wanted
        ]


def _words_of(folded: _Folded) -> str:
    more = max(0, folded.count - _PLACES_MAX)
    return "; ".join([*folded.places, *([f"{more:,} more"] if folded.places and more else [])])
