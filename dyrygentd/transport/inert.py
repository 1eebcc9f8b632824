"""Reads pickles as data: nothing in them is imported, made or called.

Theory of operation
===================
*The idea.* A pickle is a program for a small stack machine. Most of its instructions build plain data, and a few import a name
and call it. Here a name stays a name, and a call becomes a record of what would have been called with what. What is left when
the program has ended is plain data, or data with such records in it: a date or a decimal is made of its record by this module,
an exception is told by its name and its arguments, and everything else cannot be used.

*What could go wrong.* Instructions also change objects that are on the stack already (attributes of a class, for instance), make
room for as many bytes as a number says, and hash what is nested without end. So no object but plain data ever gets on the stack,
and such instructions are refused. Values may be shared, so that few bytes mean very much data; whoever makes plain data of the
outcome counts. Python's own unpickler is taken, because the faster one in C makes room for the memo as a pickle asks.

*Rejected.* A list of allowed classes for the usual unpickler: a class that is on the stack can be changed for the whole process.
"""

import datetime
import decimal
import pickle
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

#: What the type stubs do not speak of, and every Python has: the unpickler that is written in Python.
_Machine: Final[Any] = pickle._Unpickler
#: What one byte of a pickle may at most mean; a value that is the same in many places is written once.
_ITEMS_PER_BYTE: Final = 16
_ITEMS_MIN: Final = 100_000
_DEPTH_MAX: Final = 200
_SCALARS: Final = (str, bytes, int, float, bool, type(None))


class NotData(ValueError):
    """A pickle holds something that is no plain data."""


@dataclass(frozen=True, slots=True)
class PickledName:
    """A class or function that a pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    def __json__(self) -> None:
        """Refuse to become JSON, in the words that kombu's encoder passes on."""
        raise NotData(f"it holds '{self}', and the daemon reads pickles as data, unless `pickled_results` is 'unpickle'")


class Called:
    """What a pickle would have made, by calling a name with arguments; and the state it would have given it."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: PickledName, arguments: tuple[Any, ...]) -> None:
        self.name = name
        self.arguments = arguments
        self.state: Any = None

    def __json__(self) -> None:
        """Refuse to become JSON, as its name does."""
        self.name.__json__()


def data_of_pickle(payload: bytes) -> Any:
    """Read a pickle; what is no plain data in it is a `Called`, or a `PickledName`.

    Raises:
        NotData: It cannot be read as data.
    """
    try:
        found = _Inert(BytesIO(payload)).load()
    except NotData:
        raise
    except Exception as error:
        # Whatever the machine raises over a program that is none.
        raise NotData(f"it is no pickle that can be read: {type(error).__name__}: {error}") from error
    return _Plain(max(_ITEMS_MIN, _ITEMS_PER_BYTE * len(payload))).of(found)


class _Inert(_Machine):
    """The machine, without anything that imports, calls, changes, or makes room."""

    dispatch: Final[dict[int, Callable[[Any], None]]] = dict(_Machine.dispatch)

    def find_class(self, module: str, name: str) -> PickledName:
        return PickledName(module, name)

    def get_extension(self, code: int) -> None:
        raise NotData("it names a class by a number")

    def persistent_load(self, pid: Any) -> Any:
        raise NotData("it refers to something outside")

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = _called(self.stack[-1], arguments)

    def load_newobj_ex(self) -> None:
        named, arguments = self.stack.pop(), self.stack.pop()
        self.stack[-1] = _called(self.stack[-1], arguments, named)

    def load_inst(self) -> None:
        module, name = self.readline()[:-1].decode("ascii"), self.readline()[:-1].decode("ascii")
        arguments = self.pop_mark()
        self.append(_called(PickledName(module, name), tuple(arguments)))

    def load_obj(self) -> None:
        what, *arguments = self.pop_mark()
        self.append(_called(what, tuple(arguments)))

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Called):
            raise NotData("it changes something that is there already")
        self.stack[-1].state = state

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _mapping(self.stack[-1])[_key(key)] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        mapping = _mapping(self.stack[-1])
        for at in range(0, len(items), 2):
            mapping[_key(items[at])] = items[at + 1]

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({_key(items[at]): items[at + 1] for at in range(0, len(items), 2)})

    def load_append(self) -> None:
        value = self.stack.pop()
        _listed(self.stack[-1]).append(value)

    def load_appends(self) -> None:
        items = self.pop_mark()
        _listed(self.stack[-1]).extend(items)

    def load_additems(self) -> None:
        items = self.pop_mark()
        if not isinstance(self.stack[-1], set):
            raise NotData("it adds to something that is no set")
        self.stack[-1].update(map(_key, items))

    def load_frozenset(self) -> None:
        # Taking the mark changes which stack is appended to.
        items = self.pop_mark()
        self.append(frozenset(map(_key, items)))

    def refuse(self) -> None:
        raise NotData("it makes room for bytes to come")

    for _code, _load in (
        (pickle.REDUCE, load_reduce),
        (pickle.NEWOBJ, load_reduce),
        (pickle.NEWOBJ_EX, load_newobj_ex),
        (pickle.INST, load_inst),
        (pickle.OBJ, load_obj),
        (pickle.BUILD, load_build),
        (pickle.SETITEM, load_setitem),
        (pickle.SETITEMS, load_setitems),
        (pickle.DICT, load_dict),
        (pickle.APPEND, load_append),
        (pickle.APPENDS, load_appends),
        (pickle.ADDITEMS, load_additems),
        (pickle.FROZENSET, load_frozenset),
        (pickle.BYTEARRAY8, refuse),
        (pickle.NEXT_BUFFER, refuse),
        (pickle.READONLY_BUFFER, refuse),
    ):
        dispatch[_code[0]] = _load
    del _code, _load


def _called(what: Any, arguments: Any, named: Any = None) -> Called:
    """Record a call; of what another call has made, such as a method of a class, the name of that one."""
    if not isinstance(what, PickledName | Called) or not isinstance(arguments, tuple) or named:
        raise NotData("it calls something that is no name, or by keywords")
    return Called(what, arguments) if isinstance(what, PickledName) else Called(what.name, (what, *arguments))


def _key(key: Any) -> Any:
    """Return a key that is hashed without looking into anything; the exact types, so that nothing of ours gets through."""
    if type(key) not in _SCALARS and not (type(key) is tuple and all(type(each) in _SCALARS for each in key)):
        raise NotData(f"it has a key that is a {type(key).__name__}")
    return key


def _mapping(what: Any) -> dict[Any, Any]:
    if type(what) is not dict:
        raise NotData("it sets an item of something that is no dictionary")
    return what


def _listed(what: Any) -> list[Any]:
    if type(what) is not list:
        raise NotData("it appends to something that is no list")
    return what


class _Plain:
    """Makes plain data of what the machine leaves. Guards: the outcome has no more items than are allowed."""

    def __init__(self, left: int) -> None:
        self._left = left

    def of(self, what: Any, depth: int = 0) -> Any:
        """Return it as plain data where that can be done; what cannot stays a record of what would have been called."""
        self._left -= 1
        if self._left < 0:
            raise NotData("it means far more data than it has bytes")
        if depth > _DEPTH_MAX:
            raise NotData(f"it is nested more than {_DEPTH_MAX} deep")
        match what:
            case PickledName():
                return what
            case Called():
                return self._made(what, depth)
            case dict():
                return {key: self.of(value, depth + 1) for key, value in what.items()}
            case list():
                return self._all(what, depth)
            case tuple():
                return tuple(self._all(what, depth))
            case _:
                return what

    def _all(self, items: Iterable[Any], depth: int) -> list[Any]:
        return [self.of(item, depth + 1) for item in items]

    def _made(self, called: Called, depth: int) -> Any:
        arguments = tuple(self._all(called.arguments, depth))
        make = _MAKERS.get(called.name)
        if make is not None:
            # With arguments that it does not take, it stays a record like others.
            with suppress(Exception):
                return make(arguments, called.state)
        made = Called(called.name, arguments)
        made.state = self.of(called.state, depth + 1)
        return made


def _uuid(arguments: tuple[Any, ...], state: Any) -> uuid.UUID:
    if arguments or not isinstance(state, Mapping) or type(state.get("int")) is not int:
        raise NotData("it is no UUID as Python writes it")
    return uuid.UUID(int=state["int"])


def _latin_1(arguments: tuple[Any, ...], _: Any) -> bytes:
    """Make bytes of what older protocols write in their place."""
    text, encoding = arguments
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise NotData("it is no bytes as Python writes them")
    return text.encode("latin-1")


def _plainly(kind: Callable[..., Any]) -> Callable[[tuple[Any, ...], Any], Any]:
    return lambda arguments, _: kind(*arguments)


#: What kombu's JSON has a form for, and Python's own sets in older protocols.
_MAKERS: Final[Mapping[PickledName, Callable[[tuple[Any, ...], Any], Any]]] = {
    **{
        PickledName("datetime", kind.__name__): _plainly(kind)
        for kind in (datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone)
    },
    PickledName("decimal", "Decimal"): _plainly(decimal.Decimal),
    PickledName("uuid", "UUID"): _uuid,
    PickledName("_codecs", "encode"): _latin_1,
    **{PickledName(module, kind.__name__): _plainly(kind) for kind in (set, frozenset) for module in ("builtins", "__builtin__")},
}
