"""What must not be shown: secrets in the errors of tasks and in arguments, taken out before anything is kept or told.

What a pattern finds becomes ``****``; if it has a group, only what the group found. The errors of tasks are cleaned where they
come in, so that neither the database nor the log, an answer or a page has them. Results are not looked into: they are the user's
own, and the next task needs them as they are.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from reprlib import Repr
from typing import Any, Final, TypeVar

from dyrygentd.core.events import Event, MessageRefused, TaskFailed, TaskIgnored, TaskRevoked
from dyrygentd.core.graph import Signature

#: What secrets are called, as the end of a name.
_NAMES: Final = r"(?:passwords?|passwd|passphrase|pwd|secrets?|tokens?|credentials?|(?:secret|api|access|private|auth)[_-]?key)"
#: A text in quotes (or in escaped ones, as JSON in a JSON text has them) to its end, else what stands there in one piece.
_VALUE: Final = r"(?:\\\"([^\"\\]{0,500})\\\"|'((?:[^'\\]|\\.){0,500})'|\"((?:[^\"\\]|\\.){0,500})\"|([^\s'\",;)}&\\]+))"
#: Always looked for: the password of a URL, and values that are called secret, as ``name=value``, ``"name": value`` or
#: ``--name value``; of a password also ``password: value``, and what follows ``Bearer``. With bounds, so that hostile texts
#: cost no more than others.
USUAL: Final = (
    r"://[^/\s:@'\"]{0,200}:(?!\d+/)([^\s'\"]{1,200})@",
    rf"(?i){_NAMES}(?:\\?['\"]\s{{0,9}}:|\s{{0,9}}=)\s{{0,9}}b?{_VALUE}",
    rf"(?i)(?:passwords?|passwd|passphrase|pwd):\s{{0,9}}{_VALUE}",
    rf"(?i)(?<![\w-])--[\w-]{{0,50}}?{_NAMES}\s{{1,9}}{_VALUE}",
    r"(?i)\bbearer\s{1,9}([\w.~+/=-]{6,})",
)
_HIDDEN: Final = "****"
#: Celery's own bound of a repr (`celery.app.amqp.AMQP.argsrepr_maxsize`).
_CHARACTERS_MAX: Final = 1024

E = TypeVar("E", bound=Event)


class Redaction:
    """Takes secrets out of texts.

    Args:
        patterns: Regular expressions, beside `USUAL`.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self.set_patterns(patterns)

    def set_patterns(self, patterns: Iterable[str]) -> None:
        """Look for others from now on, beside `USUAL`."""
        self._patterns = [re.compile(pattern) for pattern in (*USUAL, *patterns)]

    def text(self, text: str) -> str:
        """Return a text without what must not be shown."""
        for pattern in self._patterns:
            text = pattern.sub(_hidden, text)
        return text

    def events(self, events: Sequence[E]) -> Sequence[E]:
        """Return events whose texts hold no secrets; most have none, and stay the same objects."""
        if not any(isinstance(event, _TOLD) for event in events):
            return events
        return [self._clean(event) if isinstance(event, _TOLD) else event for event in events]

    def _clean(self, event: Any) -> Any:
        match event:
            case TaskFailed():
                return replace(event, error=self.text(event.error), cause=self.text(event.cause))
            case MessageRefused():
                return replace(event, error=self.text(event.error))
            case _:
                return replace(event, reason=self.text(event.reason))

    def arguments(self, signature: Signature) -> str:
        """Return the arguments of a task as Celery's monitors show them: ``(1, 2) {'x': 3}``.

        Whoever gives `argsrepr` and `kwargsrepr`, as with `apply_async`, decides what is shown.
        """
        options = json.loads(signature.options)
        shown = []
        for name, content in (("argsrepr", signature.args), ("kwargsrepr", signature.kwargs)):
            given = options.get(name)
            value = json.loads(content)
            if given is not None or value:
                value = _without_secrets(value)
                shown.append(str(given) if given is not None else _repr(tuple(value) if isinstance(value, list) else value))
        return self.text(" ".join(shown))


_TOLD: Final = (TaskFailed, TaskRevoked, TaskIgnored, MessageRefused)


def _hidden(match: "re.Match[str]") -> str:
    group = match.lastindex
    if group is None:
        return _HIDDEN
    begin, end = match.start(group) - match.start(), match.end(group) - match.start()
    return match.group()[:begin] + _HIDDEN + match.group()[end:]


_CALLED_SECRET: Final = re.compile(rf"(?i){_NAMES}$")


def _without_secrets(value: Any) -> Any:
    """Return JSON in which what is called secret is hidden whole, whatever it is."""
    if isinstance(value, dict):
        return {name: _HIDDEN if _CALLED_SECRET.search(name) else _without_secrets(each) for name, each in value.items()}
    return [_without_secrets(each) for each in value] if isinstance(value, list) else value


def _repr(value: object) -> str:
    short = Repr()
    short.maxlevel, short.maxdict, short.maxlist, short.maxtuple, short.maxstring, short.maxother = 4, 30, 30, 30, 200, 200
    text = short.repr(value)
    return text if len(text) <= _CHARACTERS_MAX else text[: _CHARACTERS_MAX - 1] + "…"
