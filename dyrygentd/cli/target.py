"""What a command's TARGET names: an object of a module, a definition file, or JSON on stdin."""

import importlib
import inspect
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click

from dyrygentd.cli import documents
from dyrygentd.cli.session import fail, say
from dyrygentd.errors import BadNode, NotACanvas
from dyrygentd.tasks.signatures import signature_of

_NONE: Final[Mapping[str, Any]] = {}
_NAMED_MAX: Final = 8
_SET_UP: Final = "name the Celery app with --app: it is loaded first, and Django set up"


def read(target: str, arguments: Mapping[str, str]) -> Any:
    """Return what stands there, as it was written: a canvas, a `Workflow`, or a definition as JSON text or a mapping.

    Args:
        arguments: ``{name: JSON or text}`` for a function, or for the parameters of a definition.
    """
    content = _read_content(target)
    if content is None:
        return _read_object(target, {name: _value_of(text) for name, text in arguments.items()})
    return _with_values(content, arguments) if arguments else content


def read_definition(
    target: str, values: Mapping[str, Any] = _NONE, *, app: Any = None, calls_overrides: bool = False
) -> tuple[Any, Mapping[str, Any]]:
    """Return what `Client.submit` takes: a definition, and the values of its parameters.

    Args:
        values: ``{name: value}``. A function that takes arguments is called with all of them, texts being read as JSON if they
            are some; with any other target they are the definition's.
        app: Its task classes and routes are written into a definition file too.
        calls_overrides: See `dyrygentd.canvas.definition_of`.
    """
    content = _read_content(target)
    if content is None:
        found = _find(target)
        if _is_function(found):
            arguments = {name: _value_of(value) for name, value in values.items()} if _takes_arguments(found) else _NONE
            found, values = _called(target, found, arguments), _NONE if arguments else values
        content = _definition_of(target, found, calls_overrides=calls_overrides)
    return (_with_app(content, app) if app is not None and is_document(content) else content), values


def _value_of(given: Any) -> Any:
    """Read a text as JSON; what is none stays text, and what is no text stays what it is."""
    try:
        return json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError):
        return given


def _with_values(content: Any, values: Mapping[str, str]) -> Any:
    """Put values of parameters into a definition, where the daemon has those of a submission."""
    if not isinstance(content, dict):
        # What is no JSON is a finding.
        try:
            content = json.loads(content)
        except (ValueError, RecursionError):
            return content
    if not isinstance(content, dict):
        return content
    return {**content, "values": {**(content.get("values") or {}), **values}}


def is_document(what: Any) -> bool:
    """Say whether it is a definition document, as text or read, in which nothing is resolved yet."""
    return type(what) is dict or isinstance(what, bytes)


def _with_app(content: Any, app: Any) -> Any:
    from dyrygentd.tasks.documents import overridden, tasks_of, with_app

    if not isinstance(content, dict):
        # What is no JSON is for the daemon to say.
        with suppress(ValueError, RecursionError):
            content = json.loads(content)
    if not isinstance(content, dict):
        return content
    for override in overridden(tasks_of(content), app):
        say(f"warning: {override} is passed over: it is called for canvases and Workflows only")
    return with_app(content, app)


def _read_content(target: str) -> Any:
    """Return the definition in a file or on stdin: JSON text, or a mapping made of YAML. None if the target is neither."""
    if target == "-":
        return sys.stdin.buffer.read()
    return _read_definition_file(Path(target)) if Path(target).suffix.lower() in documents.SUFFIXES else None


def _read_object(target: str, arguments: Mapping[str, Any]) -> Any:
    """Return an object of a module, or what it returns if it is a function."""
    found = _find(target)
    if _is_function(found):
        return _called(target, found, arguments)
    if arguments:
        raise click.BadParameter(f"'{target}' is no function, and takes no arguments", param_hint="-p")
    return found


def _find(target: str) -> Any:
    module, colon, name = target.partition(":")
    if not colon or not module or not name:
        raise click.BadParameter(f"'{target}' is neither module:object nor a *.json or *.yaml file", param_hint="TARGET")
    return _load(module, name)


def _is_function(found: Any) -> bool:
    """Say whether it is called for what it returns. A task is not: calling it would run it here."""
    return inspect.isfunction(found) or inspect.ismethod(found)


def _takes_arguments(function: Any) -> bool:
    try:
        return bool(signature_of(function).parameters)
    except (TypeError, ValueError):
        return False


def _called(target: str, function: Any, arguments: Mapping[str, Any]) -> Any:
    _check_arguments(target, function, arguments)
    try:
        return function(**arguments)
    except Exception as error:
        fail(f"'{target}' failed: {last_line(error)}", next_step=_SET_UP if _wants_setup(error) else "")


def _check_arguments(target: str, function: Any, arguments: Mapping[str, Any]) -> None:
    """Exit with the names that a function takes, if these do not fit."""
    try:
        signature = signature_of(function)
        signature.bind(**arguments)
    except ValueError:
        return
    except TypeError as error:
        words = f"'{target}{signature}' is given {', '.join(arguments) or 'nothing'}: {error}"
        fail(words, next_step="give its arguments by name: `-p NAME=VALUE`, where VALUE is JSON or text", status=2)


def _read_definition_file(path: Path) -> Any:
    if path.suffix.lower() not in documents.YAML_SUFFIXES:
        return documents.read_bytes(path)
    document = documents.read_yaml(path)
    if not isinstance(document, dict):
        fail(f"'{path}' holds no definition", next_step="a definition is a mapping with `nodes`", status=2)
    return document


def _load(module: str, name: str) -> Any:
    # As `celery -A` and `python -m` do it.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            fail(f"there is no module '{module}'", next_step="run this from the directory that holds it", status=2)
        fail(f"module '{module}' cannot be imported: {last_line(error)}")
    except Exception as error:
        fail(f"module '{module}' cannot be imported: {last_line(error)}", next_step=_SET_UP if _wants_setup(error) else "")
    for part in name.split("."):
        if not hasattr(found, part):
            fail(f"module '{module}' has no '{name}'", next_step=_resembling(found, part), status=2)
        found = getattr(found, part)
    return found


def _definition_of(target: str, found: Any, *, calls_overrides: bool) -> Any:
    from dyrygentd.canvas import definition_of

    if type(found) is dict and "nodes" in found:
        return found
    try:
        return definition_of(found, calls_overrides=calls_overrides)
    except NotACanvas as error:
        fail(f"'{target}' is not a canvas: {error.message}", next_step=error.next_step)
    except BadNode as error:
        if not _wants_setup(error.__cause__):
            raise
        fail(error.message, next_step=f"{_SET_UP}; or {error.next_step}")


def _wants_setup(error: BaseException | None) -> bool:
    """Say whether Django complains that it has not been set up, or has no settings."""
    kind = type(error)
    return kind.__module__.startswith("django.") and kind.__name__ in ("AppRegistryNotReady", "ImproperlyConfigured")


def last_line(error: BaseException) -> str:
    """Return the last line of the traceback, and the last place outside of Celery from which it came."""
    import traceback

    words = traceback.format_exception_only(error)[-1].strip()
    frames = traceback.extract_tb(error.__traceback__)
    files = [getattr(sys.modules.get(name), "__file__", None) for name in ("celery", "kombu")]
    libraries = tuple(os.path.join(os.path.dirname(file), "") for file in files if file)
    while len(frames) > 1 and frames[-1].filename.startswith(libraries):
        frames.pop()
    return f"{words} ({frames[-1].filename}:{frames[-1].lineno})" if frames else words


def _resembling(found: Any, name: str) -> str:
    """Say which name may have been meant, or which ones there are that can be submitted."""
    import difflib

    close = difflib.get_close_matches(name, dir(found), n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    known = [
        each
        for each, value in getattr(found, "__dict__", {}).items()
        if not each.startswith("_") and _looks_like_a_workflow(value)
    ]
    return f"it has {', '.join(known[:_NAMED_MAX])}" if known else "it has no canvas, workflow or definition at all"


def _looks_like_a_workflow(value: Any) -> bool:
    # Signatures are mappings with a task, definitions are mappings with nodes; a `Workflow` can write its definition.
    is_document = isinstance(value, dict) and ("task" in value or "nodes" in value)
    return is_document or (callable(getattr(value, "definition", None)) and not inspect.isclass(value))
