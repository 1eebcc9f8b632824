"""`dyrygentctl submit`: hand over a canvas from a module, or a definition file."""

import importlib
import inspect
import os
import sys
from pathlib import Path
from typing import Any

import click

from dyrygentd.cli import Session, command, fail, main, pairs, say
from dyrygentd.errors import NotACanvas


@main.command(short_help="Submit a canvas or a definition file.")
@click.argument("target")
@click.option("--key", help="Submit only once: a known key answers with the workflow that has it.")
@click.option("--name", help="Name of the workflow.")
@click.option("--label", "labels", metavar="K=V", multiple=True, callback=pairs, help="Label; may be repeated.")
@click.option("--wait", "is_waiting", is_flag=True, help="Wait for the end; exit 1 unless it succeeded.")
@click.option("--watch", "is_watching", is_flag=True, help="The same, and show the progress.")
@command
def submit(
    session: Session,
    target: str,
    key: str | None,
    name: str | None,
    labels: dict[str, str],
    is_waiting: bool,
    is_watching: bool,
) -> None:
    """Submit TARGET: module:object, a definition file (*.json, *.yaml), or - for JSON on stdin.

    The object is a canvas, a dyrygentd Workflow, or a function without arguments that returns one.
    """
    from dyrygentd import wire
    from dyrygentd.cli import control

    what = _read(target)
    handle = session.client().submit(what, key=key, name=name, labels=labels or None)
    submitted = handle.submitted
    assert submitted is not None
    if session.is_json and not (is_waiting or is_watching):
        click.echo(wire.encode(submitted))
    elif not session.is_json:
        click.echo(submitted.id)
        say(
            f"submitted '{submitted.name}', {submitted.tasks} tasks"
            if submitted.created
            else "known already, nothing was created"
        )
    if is_watching:
        control.follow(session, handle)
    elif is_waiting:
        control.wait_for_end(session, handle, timeout_s=None)


def _read(target: str) -> Any:
    """Return what `Client.submit` takes."""
    if target == "-":
        return sys.stdin.buffer.read()
    suffix = Path(target).suffix.lower()
    if suffix in (".json", ".yaml", ".yml"):
        return _read_file(Path(target), is_yaml=suffix != ".json")
    module, colon, name = target.partition(":")
    if not colon or not module or not name:
        raise click.BadParameter(f"'{target}' is neither module:object nor a *.json or *.yaml file", param_hint="TARGET")
    return _definition_of(target, _load(module, name))


def _read_file(path: Path, *, is_yaml: bool) -> Any:
    try:
        content = path.read_bytes()
    except OSError as error:
        fail(f"cannot read '{path}': {error.strerror}", status=2)
    if not is_yaml:
        return content
    try:
        # No dependency of ours, so it is looked for where the user's modules are.
        yaml = importlib.import_module("yaml")
    except ImportError:
        fail("YAML needs the PyYAML package", next_step="`pip install pyyaml`, or write the definition as JSON", status=2)
    try:
        document = yaml.safe_load(content)
    except yaml.YAMLError as error:
        fail(f"'{path}' is no YAML: {error}", status=2)
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
        fail(f"module '{module}' cannot be imported: {_last_line(error)}")
    except Exception as error:
        fail(f"module '{module}' cannot be imported: {_last_line(error)}")
    for part in name.split("."):
        if not hasattr(found, part):
            fail(f"module '{module}' has no '{name}'", next_step=_resembling(found, part), status=2)
        found = getattr(found, part)
    return found


def _definition_of(target: str, found: Any) -> Any:
    """Make a definition; a function that returns a canvas is called. A task is not: calling it would run it here."""
    from dyrygentd.canvas import definition_of

    if inspect.isfunction(found) or inspect.ismethod(found):
        try:
            found = found()
        except Exception as error:
            fail(f"'{target}' failed: {_last_line(error)}")
    if type(found) is dict and "nodes" in found:
        return found
    try:
        return definition_of(found)
    except NotACanvas as error:
        fail(f"'{target}' is not a canvas: {error}", next_step=error.next_step)


def _last_line(error: BaseException) -> str:
    """Return the last line of the traceback and the place from which it came."""
    import traceback

    words = traceback.format_exception_only(error)[-1].strip()
    frames = traceback.extract_tb(error.__traceback__)
    return f"{words} ({frames[-1].filename}:{frames[-1].lineno})" if frames else words


def _resembling(found: Any, name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, dir(found), n=1)
    return f"did you mean '{close[0]}'?" if close else ""
