"""An app whose tasks end in ways that are hard to read: exceptions that cannot be made again, values of types of its own.

The environment says which serializer results have (``STRANGE_SERIALIZER``), and whether workers have the companion
(``STRANGE_COMPANION``: ``import`` or ``install``).
"""

import asyncio
import json
import os
import threading
import time
from typing import Any

from celery import Celery
from celery.exceptions import Ignore
from celery.signals import worker_ready
from kombu.utils.json import register_type
from pydantic import BaseModel

app = Celery(
    "strange",
    broker=os.environ.get("DYRYGENTD_TEST_BROKER", "memory://"),
    backend=os.environ.get("DYRYGENTD_TEST_BACKEND", "cache+memory://"),
    set_as_current=False,
)
_serializer = os.environ.get("STRANGE_SERIALIZER", "json")
app.conf.update(result_serializer=_serializer, result_accept_content=["json", _serializer], result_extended=True)

match os.environ.get("STRANGE_COMPANION"):
    case "import":
        import dyrygentd.worker
    case "install":
        import dyrygentd.worker

        dyrygentd.worker.install(app)


@worker_ready.connect
def tell(**_: Any) -> None:
    """Tell whoever has started this worker that it consumes."""
    if key := os.environ.get("DYRYGENTD_TEST_READY"):
        from tests.support.tasks import records

        with records() as client:
            client.rpush(key, "ready")


# --- exceptions -----------------------------------------------------------------------------------------------------


class ApiError(Exception):
    """Takes its argument by name only."""

    def __init__(self, *, code: int) -> None:
        super().__init__(str(code))


class TwoArguments(Exception):
    """Takes more than it hands on."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")


class Holder(Exception):
    """Has an argument that cannot be pickled, nor written as JSON."""


class Person(BaseModel):
    """What pydantic checks."""

    age: int


@app.task
def fail(how: str) -> None:
    """Fail in this way."""
    match how:
        case "ApiError":
            raise ApiError(code=503)
        case "JSONDecodeError":
            json.loads("{")
        case "TwoArguments":
            raise TwoArguments("broken", "gra1")
        case "Holder":
            raise Holder(threading.Lock())
        case "ValidationError":
            Person(age="old")  # type: ignore[arg-type]
        case "FileNotFoundError":
            open("/nonexistent/file").close()
        case "KeyError":
            os.environ.copy().pop("missing in every environment")


# --- values ---------------------------------------------------------------------------------------------------------


class User:
    """What travels by its name; it must not be looked up where an event loop runs, as with Django's models."""

    def __init__(self, name: str) -> None:
        self.name = name


def _look_up(name: str) -> User:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        if "DYRYGENTD_TEST_NO_LOOKUP" in os.environ:
            raise AssertionError("users are looked up by workers") from None
        return User(name)
    raise RuntimeError("you cannot call this from an async context")


register_type(User, "user", lambda user: user.name, _look_up)


@app.task
def make_user(name: str) -> User:
    """Return a value of a type of ours."""
    return User(name)


@app.task
def greet(user: User) -> str:
    """Take one."""
    assert isinstance(user, User)
    return user.name


@app.task
def name_of(user: User, suffix: str) -> str:
    """Take one and return plain text."""
    return user.name + suffix


class Evil:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return _leave, (self.path,)


def _leave(path: str) -> str:
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    return path


@app.task
def evil(path: str) -> Evil:
    """Return what runs code when it is unpickled."""
    return Evil(path)


@app.task
def plain() -> Any:
    """Return plain data, which needs no class to be read from a pickle."""
    return {"a": [1, None, 2.5, "ä"]}


@app.task
def ident(value: Any) -> Any:
    """Return the argument."""
    return value


# --- what a task says about itself ----------------------------------------------------------------------------------


@app.task(bind=True, max_retries=3)
def say(self: Any, state: str, then: str) -> Any:
    """Store a final state while running; then return, retry once, raise, or ignore."""
    if then == "retry" and self.request.retries:
        return 1
    meta = {"progress": 100} if state == "SUCCESS" else {"exc_type": "OSError", "exc_message": "x"}
    self.update_state(state=state, meta=meta)
    if then == "ignore":
        raise Ignore("enough")
    if then == "raise":
        raise ValueError("after all")
    if then == "retry":
        raise self.retry(countdown=0.2)
    if then == "mark":
        self.backend.mark_as_done(self.request.id, "early")
    time.sleep(0.3)
    return 42


@app.task(bind=True)
def gate(self: Any, value: Any, how: str) -> Any:
    """Keep what follows from running, or try to add something."""
    if how == "close":
        self.request.chain = None
    elif how == "append":
        self.request.chain.append(ident.s("added"))
    return value
