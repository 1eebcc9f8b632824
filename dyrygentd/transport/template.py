"""The fast way to a message: built by kombu once for each shape, then filled in with ids and arguments.

Theory of operation
===================
*The idea.* The messages of a workflow differ in a few places only: the ids, the arguments, and what monitors show of them. So of
each task with its options one message is built in the ordinary way (`dyrygentd.transport.message`), with marks in the places that
differ, and cut at the marks. A further message is the pieces with the values between them: a tenth of the time.

*The rule.* The worker must not be able to tell: what it decodes is equal to what it would have got, whatever the shape. Where
that cannot be known beforehand there is no template and everything goes the ordinary way: receivers of the publish signals, which
may change each message; routers that are code; anything that depends on the time of sending; other serializers than JSON,
compression and other protocols; exchanges, whose bindings may change; arguments with types that only kombu's JSON has. A mark
that does not stand exactly where it is expected means the same.

*What could go wrong.* A new version of Celery puts an id into a further place: then the number of marks is another one, and no
template is made. ``tests/transport/test_template.py`` compares both ways over shapes and values, and fails if one that should
have a template gets none.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from celery import signals
from celery.app.amqp import AMQP
from celery.app.routes import MapRoute
from celery.utils.saferepr import saferepr
from kombu.exceptions import KombuError

from dyrygentd.core.effects import Publish
from dyrygentd.core.node_spec import Signature
from dyrygentd.core.values import Joined
from dyrygentd.tasks.written import is_moved
from dyrygentd.transport.message import repr_levels_of
from dyrygentd.transport.redis_push import Collected, delivery_tag

#: Shapes that are kept; a workflow has as many as it has different tasks and options.
_SHAPES_MAX: Final = 1000

#: Marks: texts that nobody else writes, and that JSON and base64 leave as they are.
_MARK: Final = "dyrygentd-mark-a2f1c7"
_ID, _ROOT, _PARENT, _STAMP, _ARGUMENT, _NAME = (f"{_MARK}-{name}" for name in ("id", "root", "parent", "stamp", "arg", "kwarg"))
_PROBE: Final = Signature("", json.dumps([_ARGUMENT]).encode(), json.dumps({_NAME: 1}).encode())
#: How often each mark stands in a message: the id as itself and as the correlation id.
_EXPECTED: Final = {_ID: 2, _ROOT: 1, _PARENT: 1, _STAMP: 1}
#: These run another task on each item of a list, and are routed by its name.
_ROUTED_BY_ARGUMENTS: Final = frozenset({"celery.map", "celery.starmap"})
#: What cannot be known before a message is sent.
_OF_THE_MOMENT: Final = frozenset({"expires", "eta", "countdown", "expiration"})
#: Arguments that hold this may be of a type that only kombu's JSON has.
TYPED: Final = b"__type__"
#: Bytes of arguments and inputs that are filled in at once on the event loop: some milliseconds.
_LOOP_BYTES_MAX: Final = 262_144
#: Longest input that is looked through for it each time.
_INPUT_BYTES_MAX: Final = 65_536

_SIGNALS: Final = (signals.before_task_publish, signals.after_task_publish, signals.task_sent)
_PLAIN: Final = frozenset({int, float, bool, type(None)})


class Template:
    """A message in pieces.

    Args:
        built: A message of the shape that has marks, see `_probe`.

    Raises:
        ValueError: It does not have them where they are expected.
    """

    __slots__ = (
        "_args_repr_max",
        "_body",
        "_destination",
        "_expires_ms",
        "_fixed",
        "_kwargs_repr_max",
        "_levels",
        "_pieces",
        "_places",
        "_queues",
    )

    def __init__(self, built: Collected, *, args_repr_max: int, kwargs_repr_max: int, levels: Mapping[str, int]) -> None:
        self._args_repr_max, self._kwargs_repr_max, self._levels = args_repr_max, kwargs_repr_max, levels
        self._queues, self._expires_ms, self._destination = built.queues, built.expires_ms, built.destination
        message = json.loads(built.payload)
        _require(message["content-type"] == "application/json" and message["content-encoding"] == "utf-8", "it is JSON")
        _require(not message["headers"].get("compression"), "it is not compressed")
        _require(message["properties"]["body_encoding"] == "base64", "its body is base64")
        _require(message["properties"]["delivery_info"]["exchange"] == "", "it goes straight into a queue")
        body = base64.b64decode(message["body"]).decode()
        self._body = _cut(body, {_PROBE.args.decode(): "args", _PROBE.kwargs.decode(): "kwargs"})[0::2]
        _require(len(self._body) == 3 and body.index(_ARGUMENT) < body.index(_NAME), "its body has both arguments once")
        marks = {
            f'"{message["body"]}"': "body",
            f'"{delivery_tag(_ID, 0)}"': "tag",
            **{f'"{mark}"': mark for mark in _EXPECTED},
            json.dumps(_repr_of_args(_PROBE.args, None, args_repr_max, levels)): "argsrepr",
            json.dumps(_repr_of_kwargs(_PROBE.kwargs, kwargs_repr_max, levels)): "kwargsrepr",
        }
        cut = _cut(built.payload, marks)
        self._pieces, self._places = cut[0::2], cut[1::2]
        _require(not any(_MARK in piece for piece in (*self._pieces, *self._body)), "it has no marks elsewhere")
        for name in ("body", "tag", *_EXPECTED):
            _require(self._places.count(name) == _EXPECTED.get(name, 1), f"it has its {name} as often as is known")
        self._fixed: _Fixed | None = None

    def fill(self, publish: Publish) -> Collected | None:
        """Return the message of a node; None if its arguments have to go the ordinary way."""
        signature, given = publish.signature, publish.input
        if publish.destination and publish.destination != self._destination:
            return None
        key = publish.workflow_id, publish.stamp, publish.parent_id
        fixed = self._fixed
        if fixed is None or given is not None or fixed.signature is not signature or fixed.key != key:
            common = self._common(publish)
            if common is None:
                return None
            pieces, places, values = self._pieces, self._places, common
            if given is None:
                self._fixed = _Fixed(signature, key, common)
        else:
            # The members of a group often differ in nothing but their ids.
            pieces, places = fixed.cut or fixed.fix(self._pieces, self._places)
            values = {}
        try:
            values["tag"] = encode_basestring_ascii(delivery_tag(publish.task_id, publish.attempt))
            values[_ID] = encode_basestring_ascii(publish.task_id)
        except ValueError:
            return None
        text = pieces[0] + "".join([values[place] + piece for place, piece in zip(places, pieces[1:], strict=True)])
        return Collected(publish, self._queues, text, self._expires_ms, self._destination)

    def _common(self, publish: Publish) -> dict[str, str] | None:
        """Return what stands in the places of a message, but for its own ids."""
        args, kwargs, given = publish.signature.args, publish.signature.kwargs, publish.input
        if isinstance(given, Joined):
            return None
        if TYPED in args or TYPED in kwargs or (given is not None and (len(given) > _INPUT_BYTES_MAX or TYPED in given)):
            return None
        before, between, after = self._body
        try:
            all_args = args if given is None else _joined(given, args)
            body = f"{before}{all_args.decode()}{between}{kwargs.decode()}{after}".encode()
            values = {
                "body": f'"{base64.b64encode(body).decode()}"',
                _ROOT: encode_basestring_ascii(publish.workflow_id),
                _PARENT: encode_basestring_ascii(publish.parent_id) if publish.parent_id else "null",
                _STAMP: encode_basestring_ascii(publish.stamp),
            }
            if "argsrepr" in self._places:
                text = _repr_of_args(args, given, self._args_repr_max, self._levels)
                values["argsrepr"] = encode_basestring_ascii(text)
            if "kwargsrepr" in self._places:
                values["kwargsrepr"] = encode_basestring_ascii(_repr_of_kwargs(kwargs, self._kwargs_repr_max, self._levels))
        except (ValueError, TypeError, RecursionError):
            # No JSON, or nothing that UTF-8 can carry: the ordinary way has the words for it.
            return None
        return values


class _Fixed:
    """What a message has in common with the last one that no input was put into, of the same signature in the same workflow."""

    __slots__ = ("_values", "cut", "key", "signature")

    def __init__(self, signature: Signature, key: tuple[str, str, str], values: dict[str, str]) -> None:
        self.signature, self.key, self._values = signature, key, values
        self.cut: tuple[list[str], list[str]] | None = None

    def fix(self, pieces: Sequence[str], places: Sequence[str]) -> tuple[list[str], list[str]]:
        """Put it into the pieces of a template, for the messages to come; only the places of ids are left."""
        whole, left = [pieces[0]], []
        for place, piece in zip(places, pieces[1:], strict=True):
            if place in ("tag", _ID):
                left.append(place)
                whole.append(piece)
            else:
                whole[-1] += self._values[place] + piece
        self.cut = whole, left
        return self.cut


class Templates:
    """Makes and keeps templates. Guards: what comes of one is equal to what the ordinary way makes.

    Args:
        build: The ordinary way, over the present connection.
        reports: What messages say about reporting.
        shapes_max: The first of more are forgotten: options may come without end.
    """

    def __init__(
        self,
        app: Any,
        build: Callable[[Publish], Collected],
        *,
        reports: Callable[[], Mapping[str, Any] | None],
        shapes_max: int = _SHAPES_MAX,
    ) -> None:
        self._app = app
        self._shapes_max = shapes_max
        self._build = build
        self._reports = reports
        self._reports_then: Mapping[str, Any] | None = None
        self._templates: dict[tuple[str, bytes], Template | None] = {}
        self._is_possible: bool | None = None

    def __repr__(self) -> str:
        return f"<Templates shapes={len(self._templates)}>"

    def __len__(self) -> int:
        """Return how many shapes have a template."""
        return sum(template is not None for template in self._templates.values())

    def clear(self) -> None:
        """Forget everything: there is another connection, on which queues have to be declared."""
        self._templates.clear()
        self._is_possible = None

    def filled(self, messages: Sequence[Publish]) -> list[Collected] | None:
        """Return messages whose templates are there, without calling anybody else's code; None if one has none.

        None also if they are so long that filling them in would hold up the event loop.
        """
        if self._has_receivers() or self._reports() is not self._reports_then:
            return None
        size = 0
        templates = []
        for each in messages:
            signature = each.signature
            size += len(signature.args) + len(signature.kwargs) + len(signature.options) + len(each.input or b"")
            template = self._templates.get((signature.task, signature.options))
            if template is None:
                return None
            templates.append(template)
        if size > _LOOP_BYTES_MAX:
            return None
        found = []
        for each, template in zip(messages, templates, strict=True):
            collected = template.fill(each)
            if collected is None:
                return None
            found.append(collected)
        return found

    def fill(self, publish: Publish) -> Collected | None:
        """Return the message of a node, None if it has to go the ordinary way."""
        if self._has_receivers():
            return None
        if self._reports() is not self._reports_then:
            self._reports_then = self._reports()
            self.clear()
        shape = _shape_of(publish)
        if shape not in self._templates:
            while len(self._templates) >= self._shapes_max:
                del self._templates[next(iter(self._templates))]
            self._templates[shape] = self._made(publish)
        template = self._templates[shape]
        return None if template is None else template.fill(publish)

    @staticmethod
    def _has_receivers() -> bool:
        return any(signal.receivers for signal in _SIGNALS)

    def _made(self, publish: Publish) -> Template | None:
        if self._is_possible is None:
            self._is_possible = self._can_be()
        signature = publish.signature
        if not self._is_possible or signature.task in _ROUTED_BY_ARGUMENTS or signature.expires_at:
            return None
        if is_moved(self._app.tasks.get(signature.task)):
            return None
        try:
            if _OF_THE_MOMENT & json.loads(signature.options).keys():
                return None
            built = self._build(_probe(publish))
            amqp = self._app.amqp
            return Template(
                built,
                args_repr_max=amqp.argsrepr_maxsize,
                kwargs_repr_max=amqp.kwargsrepr_maxsize,
                levels=repr_levels_of(self._app),
            )
        except (ValueError, LookupError, TypeError, KombuError):
            # Whatever is wrong with the message is told where it is built in the ordinary way.
            return None

    def _can_be(self) -> bool:
        """Tell whether messages of one shape differ in nothing but what is known."""
        app = self._app
        amqp = app.amqp
        is_usual = type(amqp) is AMQP and amqp.create_task_message == amqp.as_task_v2
        return bool(is_usual and not has_code(amqp.router) and not app.conf.task_send_sent_event)


def has_code(router: Any) -> bool:
    """Tell whether a router of the app is code, and may look at more than the name of a task."""
    return not all(isinstance(route, MapRoute) for route in router.routes)


def _shape_of(publish: Publish) -> tuple[str, bytes]:
    return publish.signature.task, publish.signature.options


def _probe(publish: Publish) -> Publish:
    """Return a message of the same shape with marks in all places where messages differ."""
    signature = replace(publish.signature, args=_PROBE.args, kwargs=_PROBE.kwargs)
    return publish._replace(
        task_id=_ID,
        workflow_id=_ROOT,
        parent_id=_PARENT,
        stamp=_STAMP,
        attempt=0,
        signature=signature,
        input=None,
        destination="",
    )


def _joined(given: bytes, args: bytes) -> bytes:
    """Put an input before the arguments, both as JSON text."""
    inner = args.strip()[1:-1].strip()
    return b"[" + given + b", " + inner + b"]" if inner else b"[" + given + b"]"


def _repr_of_args(args: bytes, given: bytes | None, maximum: int, levels: Mapping[str, int]) -> str:
    values = () if args == b"[]" else tuple(json.loads(args))
    if given is not None:
        values = (json.loads(given), *values)
    parts = [_plain_repr(value) for value in values]
    text = ", ".join(parts) if None not in parts else None  # type: ignore[arg-type]
    if text is None or len(text) + 3 >= maximum:
        return str(saferepr(values, maximum, **levels))
    return f"({text},)" if len(parts) == 1 else f"({text})"


def _repr_of_kwargs(kwargs: bytes, maximum: int, levels: Mapping[str, int]) -> str:
    if kwargs == b"{}":
        return "{}"
    values = json.loads(kwargs)
    parts = [(_plain_repr(name), _plain_repr(value)) for name, value in values.items()]
    text = ", ".join([f"{name}: {value}" for name, value in parts]) if all(value is not None for _, value in parts) else None
    if text is None or len(text) + 2 >= maximum:
        return str(saferepr(values, maximum, **levels))
    return f"{{{text}}}"


def _plain_repr(value: object) -> str | None:
    """Return what `saferepr` makes of a value that holds no others, as far as there is no bound; None of all others."""
    if type(value) is str:
        return "'" + value.replace("'", "\\'") + "'"
    return str(value) if type(value) in _PLAIN else None


def _cut(text: str, marks: Mapping[str, str]) -> list[str]:
    """Cut a text at all marks; return pieces and names of marks in turn, beginning and ending with a piece."""
    found = []
    for mark, name in marks.items():
        at = text.find(mark)
        while at >= 0:
            found.append((at, at + len(mark), name))
            at = text.find(mark, at + len(mark))
    parts, begin = [], 0
    for at, end, name in sorted(found):
        _require(at >= begin, "its marks do not overlap")
        parts += [text[begin:at], name]
        begin = end
    return [*parts, text[begin:]]


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"no template: it is expected of the message that {what}")
