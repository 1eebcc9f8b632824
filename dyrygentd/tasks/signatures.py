"""What functions of the user's take, whatever their annotations name."""

import inspect
import sys
from collections.abc import Callable
from typing import Any


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return a function's parameters.

    From Python 3.14 on annotations are evaluated by whoever asks for them, and may name what is imported for type checkers alone;
    they are taken as text then, as Celery takes them.

    Raises:
        TypeError, ValueError: It is no function, or none whose parameters are known.
    """
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        return inspect.signature(function, annotation_format=Format.STRING)
    return inspect.signature(function)
