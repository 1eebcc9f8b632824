"""Celery canvases and the public builder: both become a `Definition`, with task ids fixed here, at submission.

A canvas is read as what it says, never frozen or cloned: Celery's ``freeze`` changes the tree and copies chord bodies into
every member of a header. Signatures are dicts, so objects and their dict forms (``subtask_type``) take the same path and
Celery itself is not needed to read them.

- `builder`: `Workflow`, which programs build node by node or from canvases.
- `choosing`: conditions as a program writes them, and the branches of a switch.
- `importer`: walks a canvas; what it is worth, and which node depends on which.
- `draft`: the graph that both add to, with its names.
- `parts`: a canvas as it was written, as `dyrygentd.lint` reads it too. `visits`: what containers hand down to it.
- `signatures`, `values`: one task as the core keeps it; JSON.

Where this differs from Celery on purpose is listed in `dyrygentd.lint.differences`, and tested against Celery.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

from dyrygentd.canvas.builder import Workflow, definition_of_workflow
from dyrygentd.canvas.choosing import value_of
from dyrygentd.canvas.draft import Draft, checked_labels, checked_name
from dyrygentd.canvas.importer import Importer
from dyrygentd.canvas.refs import NodeRef, SectionRef
from dyrygentd.canvas.values import decode_value, encode_value
from dyrygentd.canvas.visits import NOTHING, passed_to_all
from dyrygentd.core.graph import Definition
from dyrygentd.core.series import IfRunning, series_of
from dyrygentd.tasks.apply_options import checked_apply_options

__all__ = ["NodeRef", "SectionRef", "Workflow", "decode_value", "definition_of", "encode_value", "value_of"]


def definition_of(
    what: object,
    *,
    name: str | None = None,
    key: str | None = None,
    labels: Mapping[str, str] | None = None,
    series: str | None = None,
    if_running: IfRunning | str | None = None,
    options: Mapping[str, Any] | None = None,
    has_good_options: bool = True,
    calls_overrides: bool = False,
    new_id: Callable[[], str] = lambda: str(uuid4()),
) -> Definition:
    """Turn a canvas, a `Workflow` or a `Definition` into what is submitted.

    Name, key, labels and series given here go before those that ``what`` has.

    Args:
        options: Arguments of `apply_async` for a canvas, see `dyrygentd.tasks.apply_options`.
        has_good_options: Whether publish options with which nothing could be published are refused. A linter reads on.
        calls_overrides: Call `apply_async` and `send_task` where they are overridden, and keep what they pass down: for what is
            submitted right away, see `dyrygentd.tasks.overrides`.
        new_id: Makes the task ids of tasks that bring none.

    Raises:
        NotACanvas: Something in it is no signature; the message tells its type and where it was found.
        DefinitionError: It is a canvas, but cannot be run.
        TypeError: An option is not taken here; the message says where it goes.
    """
    given = checked_apply_options(options or {}, what)
    match what:
        case Definition():
            return replace(
                what,
                name=what.name if name is None else checked_name(name),
                key=what.key if key is None else key,
                labels={**what.labels, **checked_labels(labels)},
                series=series_of(series, if_running, present=what.series),
            )
        case Workflow():
            made = definition_of_workflow(
                what, key=key, new_id=new_id, is_known=has_good_options, calls_overrides=calls_overrides
            )
            return definition_of(made, name=name, labels=labels, series=series, if_running=if_running)
    name, labels = None if name is None else checked_name(name), checked_labels(labels)
    draft = Draft()
    importer = Importer(draft, has_good_options=has_good_options)
    output = importer.read_whole(what, passed_to_all(given) if given else NOTHING)
    return draft.definition(
        name=name,
        labels=labels,
        key=key,
        output=output,
        series=series_of(series, if_running),
        new_id=new_id,
        is_known=has_good_options,
        calls_overrides=calls_overrides,
    )
