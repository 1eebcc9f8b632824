"""`dyrygentctl adopt`: take over a workflow of celery-dyrygent that is under way."""

import json
import sys
from pathlib import Path

import click

from dyrygentd.cli import documents, render
from dyrygentd.cli.session import USAGE, Session, command, echo_json, fail, say
from dyrygentd.cli.submit import say_known


@click.command(short_help="Take over a workflow of celery-dyrygent.")
@click.argument("file")
@click.option("--name", help="Name of the workflow [default: its id there].")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Print the definition and submit nothing.")
@command
def adopt(session: Session, file: str, name: str | None, is_dry_run: bool) -> None:
    """Go on with the workflow in FILE (- for stdin): a message of the task 'workflow-processor', or a workflow's dict as JSON.

    What has finished stays finished, what runs is awaited, the rest is published, under the same task ids. See to it first that
    no worker will process the message any more, or both will publish tasks. Adopting a workflow twice creates nothing.
    """
    # Celery is imported where a canvas or one of its messages is read, and nowhere else in the client.
    from dyrygentd import wire
    from dyrygentd.compat.celery_dyrygent import adoption
    from dyrygentd.core.graph import NODES_MAX
    from dyrygentd.errors import DyrygentError

    try:
        content = _read(file)
        documents.refuse_if_no_json(file, content)
        workflow = adoption.workflow_dict_of(content)
        document = adoption.adopted_definition(workflow, name=name)
        wire.decode_definition(json.dumps(document).encode(), nodes_max=NODES_MAX)
    except DyrygentError as error:
        fail(f"cannot adopt '{file}': {error.message}", next_step=error.next_step)
    marks = [node.get("adopted") for node in document["nodes"] if not node.get("join")]
    counts = {word: marks.count(word) for word in ("succeeded", "failed", "dispatched")}
    words = f"{len(marks)} tasks: " + ", ".join(f"{count} {word}" for word, count in counts.items())
    if is_dry_run:
        echo_json(json.dumps(document, indent=2, ensure_ascii=False).encode(errors="surrogatepass"))
        say(f"would adopt {words}")
        return
    handle = session.client().submit(document)
    submitted = handle.submitted
    assert submitted is not None
    if session.is_json:
        echo_json(submitted)
        return
    click.echo(submitted.id)
    if submitted.created:
        say(f"adopted '{render.inline(submitted.name)}', {words}")
    else:
        say_known(handle)


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        fail(f"cannot read '{file}': {error.strerror}", status=USAGE)
