"""What must not be shown: secrets in the errors of tasks and in arguments, taken out before anything is kept or told.

What looks like a secret becomes ``****`` (see `dyrygentd.scheduler.secrets`), and so does what a pattern of the admin finds; if
it has a group, only what the group found. The errors of tasks are cleaned where they come in, so that neither the database nor
the log, an answer or a page has them. They are cleaned first and cut afterwards: half a secret does not look like one. Results
are not looked into: they are the user's own, and the next task needs them as they are.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from reprlib import Repr
from typing import Any, Final, TypeVar

from dyrygentd.core.events import Event, MessageRefused, TaskFailed, TaskIgnored, TaskReported, TaskRevoked
from dyrygentd.core.node_spec import Signature
from dyrygentd.ports.facts import Inspection
from dyrygentd.scheduler.pattern_process import PatternProcess
from dyrygentd.scheduler.secrets import CALLED_SECRET, HIDDEN, hide_secrets

#: Longest error text kept: enough to tell the cause in a list, the traceback stays in Celery's result.
_ERROR_CHARACTERS_MAX: Final = 500
#: Of a longer text only the beginning is looked at. A secret that is cut there has no end, and is hidden to it.
_LOOKED_AT_MAX: Final = 8 * 1024
#: Celery's own bound of a repr (`celery.app.amqp.AMQP.argsrepr_maxsize`).
_CHARACTERS_MAX: Final = 1024
#: Of arguments: characters of one text that are looked at, and values that are looked at.
_LEAF_CHARACTERS_MAX: Final = 2048
_LEAVES_MAX: Final = 500

E = TypeVar("E", bound=Event)


class Redaction:
    """Takes secrets out of texts.

    Args:
        patterns: Regular expressions of what is taken out beside what looks like a secret.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._process: PatternProcess | None = None
        self.set_patterns(patterns)

    @property
    def problem(self) -> str:
        """Why everything is hidden at present, empty if it is not."""
        return "" if self._process is None else self._process.problem

    def set_patterns(self, patterns: Iterable[str]) -> None:
        """Look for others from now on. Raises `re.error` if one is none."""
        patterns = [re.compile(pattern).pattern for pattern in patterns]
        self.close()
        self._process = PatternProcess(patterns, hidden=HIDDEN) if patterns else None

    def close(self) -> None:
        """End what searches for patterns; safe to repeat."""
        if self._process is not None:
            self._process.close()

    def text(self, text: str) -> str:
        """Return a text without what must not be shown."""
        return self._texts([text])[0]

    def _texts(self, texts: Sequence[str]) -> list[str]:
        cleaned = [hide_secrets(text) for text in texts]
        return cleaned if self._process is None else self._process.clean(cleaned)

    def _lines(self, texts: Sequence[str]) -> list[str]:
        """Return what is kept of texts of any length: one line each, without what must not be shown, and not too long."""
        return [_short(" ".join(text.split()), _ERROR_CHARACTERS_MAX) for text in self._texts([_begin(text) for text in texts])]

    def events(self, events: Sequence[E]) -> Sequence[E]:
        """Return events whose texts hold no secrets, each of one line; most have none, and stay the same objects."""
        told = [number for number, event in enumerate(events) if isinstance(event, _TOLD) and _has_text(event)]
        if not told:
            return events
        # All at once: patterns are searched for in another process.
        texts = [getattr(events[number], name) for number in told for name in _fields(events[number])]
        cleaned = iter(self._lines(texts))
        clean = list(events)
        for number in told:
            event: Any = events[number]
            clean[number] = replace(event, **{name: next(cleaned) for name in _fields(event)})
        return clean

    def arguments(self, signature: Signature) -> str:
        """Return the arguments of a task as Celery's monitors show them: ``(1, 2) {'x': 3}``.

        Whoever gives `argsrepr` and `kwargsrepr`, as with `apply_async`, decides what is shown.
        """
        options = json.loads(signature.options)
        shown = []
        for name, content in (("argsrepr", signature.args), ("kwargsrepr", signature.kwargs)):
            given = options.get(name)
            if given is not None:
                shown.append(str(given)[:_CHARACTERS_MAX])
            elif content.strip() not in (b"[]", b"{}", b"null"):
                shown.append(_short(self._repr(content), _CHARACTERS_MAX))
        return self.text(" ".join(shown))

    def data(self, content: bytes) -> Any:
        """Return free data of a user as it may be shown: JSON without secrets, with an ellipsis for what is left out."""
        try:
            return self._cleaned(content, more="…")
        except RecursionError:
            return "…"

    def _repr(self, content: bytes) -> str:
        try:
            value = self._cleaned(content, more=_MORE)
        except RecursionError:
            return "(…)"
        return _USUAL_REPR.repr(tuple(value) if isinstance(value, list) else value)

    def _cleaned(self, content: bytes, *, more: Any) -> Any:
        value = json.loads(content, parse_int=_whole_number)
        # All at once: patterns are searched for in another process.
        found: list[str] = []

        def collect(text: str) -> str:
            found.append(text)
            return ""

        _Shown(collect, more).of(value)
        cleaned = iter(self._texts(found))
        return _Shown(lambda _: next(cleaned), more).of(value)


def without_secrets(inspection: Inspection, redact: Callable[[str], str]) -> Inspection:
    """Return what was found of tasks with their errors as they may be shown: all who may read see what is said of it."""
    cleaned = {
        task_id: replace(task, stored_error=redact(task.stored_error)) if task.stored_error else task
        for task_id, task in inspection.tasks.items()
    }
    return replace(inspection, tasks=cleaned)


class _Shown:
    """Makes what is shown of a value: what is called secret is hidden whole, texts are cleaned before they are cut.

    Args:
        clean: Told each text in turn; it has no more characters than are looked at.
        more: Stands for what is not shown.
    """

    def __init__(self, clean: Callable[[str], str], more: Any) -> None:
        self._clean = clean
        self._more = more
        self._left = _LEAVES_MAX

    def of(self, value: Any, depth: int = 0) -> Any:
        """Return JSON without secrets; of what would not be shown anyway, nothing."""
        self._left -= 1
        if self._left < 0 or (depth > _USUAL_REPR.maxlevel and isinstance(value, dict | list)):
            return self._more
        match value:
            case dict():
                # One more than is shown, so that what is left out is told.
                pairs = list(value.items())[: _USUAL_REPR.maxdict + 1]
                return {
                    _short(name, _NAME_CHARACTERS): HIDDEN if CALLED_SECRET.search(name) else self.of(each, depth + 1)
                    for name, each in pairs
                }
            case list():
                return [self.of(each, depth + 1) for each in value[: _USUAL_REPR.maxlist + 1]]
            case str():
                return _short(self._clean(value[:_LEAF_CHARACTERS_MAX]), _USUAL_REPR.maxstring - 2)
        return value


class _More:
    """Stands for what is not shown."""

    def __repr__(self) -> str:
        return "…"


_MORE: Final = _More()

_FIELDS: Final[dict[type, tuple[str, ...]]] = {
    TaskFailed: ("error", "fingerprint"),
    MessageRefused: ("error",),
    TaskRevoked: ("reason",),
    TaskIgnored: ("reason",),
    TaskReported: ("error",),
}
_TOLD: Final = tuple(_FIELDS)


def _has_text(event: Event) -> bool:
    """Tell whether there is anything to look at: most reports on the way have no error."""
    return not isinstance(event, TaskReported) or bool(event.error)


def _fields(event: Event) -> tuple[str, ...]:
    return _FIELDS[type(event)]


def _begin(text: str) -> str:
    return text if len(text) <= _LOOKED_AT_MAX else text[:_LOOKED_AT_MAX]


def _short(text: str, characters_max: int) -> str:
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"


def _whole_number(text: str) -> Any:
    """Read a whole number; Python refuses to write those of thousands of digits, and nobody reads them."""
    return int(text) if len(text) <= _DIGITS_MAX else f"{text[:_DIGITS_MAX]}…"


_DIGITS_MAX: Final = 100
_NAME_CHARACTERS: Final = 100

_USUAL_REPR: Final = Repr()
_USUAL_REPR.maxlevel, _USUAL_REPR.maxdict, _USUAL_REPR.maxlist, _USUAL_REPR.maxtuple = 4, 30, 30, 30
_USUAL_REPR.maxstring = _USUAL_REPR.maxother = _USUAL_REPR.maxlong = 200
