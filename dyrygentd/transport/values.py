"""Reads arguments and values for messages, without the decoders that an app has registered.

kombu's JSON has types: ``{"__type__": "uuid", "__value__": …}``. Those that every process knows are made here, as Celery makes
them, so that routes, signals and what monitors show are the same. Any other type is an app's own: its decoder may ask a database,
block, or not be known here at all. For a message in JSON it stays the text that it is, and the worker makes the object. Only for
a message in another serializer it has to be made, in the thread that publishes. What has the name of one of kombu's types and
cannot be made fails its node: a worker would throw the message away, and nobody would learn it.
"""

import base64
import json
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, time
from decimal import Decimal
from typing import Any, Final

from kombu.utils.json import loads

_TYPED: Final = b"__type__"
_KEYS: Final = {"__type__", "__value__"}
#: As `kombu.utils.json` has them.
_KNOWN: Final[Mapping[Any, Callable[[Any], Any]]] = {
    "bytes": lambda value: value.encode("utf-8"),
    "base64": lambda value: base64.b64decode(value.encode("utf-8")),
    "datetime": datetime.fromisoformat,
    "date": lambda value: datetime.fromisoformat(value).date(),
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": lambda value: uuid.UUID(hex=value["hex"]),
}


def read_value(text: bytes) -> Any:
    """Read JSON text; types that only the app knows stay as they are written. Raises ``ValueError`` where workers would."""
    # What is no UTF-8 is refused, as kombu does it; Python's JSON would let halves of surrogate pairs through.
    return json.loads(text.decode(), object_hook=_made) if _TYPED in text else json.loads(text.decode())


def read_value_as_the_app(text: bytes) -> Any:
    """Read JSON text with the app's decoders; blocking. Raises whatever they raise."""
    return loads(text)


def has_types(text: bytes) -> bool:
    """Tell whether there may be types in a JSON text."""
    return _TYPED in text


def _made(found: dict[str, Any]) -> Any:
    if found.keys() != _KEYS:
        return found
    kind = found["__type__"]
    make = _KNOWN.get(kind) if isinstance(kind, str) else None
    if make is None:
        return found
    try:
        return make(found["__value__"])
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        # No worker can read it either: it throws such a message away, and the task never ends.
        raise ValueError(f"a value that says that it is of type '{kind}' is not: {type(error).__name__}: {error}") from error
