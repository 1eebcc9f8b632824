"""A value that is not there yet: the user's code may pass it on, and whoever looks at it is found out."""

from typing import Any, Final, NoReturn


class LookedAt(Exception):
    """Somebody wanted to know what is not known before the workflow runs."""


def _look(*_: Any, **__: Any) -> NoReturn:
    raise LookedAt("the value of what precedes is not known yet")


class Unread:
    """Stands for the value of what precedes, as an argument. Whatever is done with it raises `LookedAt`."""

    __slots__ = ()
    __getattr__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __str__ = __repr__ = __format__ = _look
    __len__ = __iter__ = __getitem__ = __contains__ = __call__ = __int__ = __float__ = __index__ = __bytes__ = _look
    __reduce_ex__ = __hash__ = _look
    __class__ = property(_look)


UNREAD: Final = Unread()
