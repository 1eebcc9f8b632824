"""What the generated tables of the guides say, each made from the one place where it is decided."""

import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import anyio
import click
import yaml

from dyrygentd import wire
from dyrygentd.cli import main
from dyrygentd.core.reactions import REACTIONS, Reaction
from dyrygentd.core.states import BAD, FINISHED, GOOD, IN_FLIGHT, TRANSITIONS, NodeState, WorkflowState
from dyrygentd.core.verbs import NODE_VERBS, WORKFLOW_VERBS, Allowed, Verb
from dyrygentd.daemon import config
from dyrygentd.daemon.example import example
from dyrygentd.errors import DyrygentError
from dyrygentd.http.access import Role
from dyrygentd.http.problems import InternalError
from dyrygentd.http.table import ROUTES
from dyrygentd.metrics import DaemonCollector, DeputyCollector, HttpCollector, RolesCollector, SchedulerCollector
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import scheduler

ROOT: Final = Path(__file__).parents[2]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; a bar inside a cell ends none."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |") for cells in lines)


def code(words: Iterable[str]) -> str:
    """Write words as code, separated by commas."""
    return ", ".join(f"`{word}`" for word in words)


# --- states ---------------------------------------------------------------------------------------------------------


def states() -> str:
    """Write the states of a node, and what each counts as."""

    def counts_as(state: NodeState) -> str:
        if state in IN_FLIGHT:
            return "in flight"
        if state in GOOD:
            return "finished; success for what depends on it"
        return "finished; keeps the workflow from success" if state in BAD else "yet to run"

    def next_of(state: NodeState) -> str:
        return code(to.word for at, to in TRANSITIONS if at is state)

    return table(["state", "counts as", "what may follow"], ([f"`{s.word}`", counts_as(s), next_of(s)] for s in NodeState))


def workflow_states() -> str:
    """Write the states of a workflow."""
    finished = code(state for state in WorkflowState if state.is_finished)
    return f"{code(state for state in WorkflowState if not state.is_finished)}; finished: {finished}."


def transitions() -> str:
    """Write every change of a node's state that there is."""
    rows = sorted(TRANSITIONS.items(), key=lambda row: row[0])
    return table(["from", "to", "because"], ([f"`{at.word}`", f"`{to.word}`", why] for (at, to), why in rows))


def reactions() -> str:
    """Write what an event of a task does in each state of its node; states with the same answers stand in one column."""
    columns: dict[tuple[Reaction, ...], list[str]] = {}
    for state, row in REACTIONS.items():
        columns.setdefault(tuple(row.values()), []).append(f"`{state.word}`")
    kinds = list(REACTIONS[NodeState.WAITING])
    rows = ([f"`{kind.__name__}`", *(_word(column[number]) for column in columns)] for number, kind in enumerate(kinds))
    words = [f"- *{_word(reaction)}*: {reaction.value}" for reaction in Reaction if reaction is not Reaction.NOTHING]
    return "\n".join([table(["event", *map(", ".join, columns.values())], rows), "", *words])


def _word(reaction: Reaction) -> str:
    return reaction.name.lower().replace("_", " ")


def state_diagram() -> str:
    """Draw the changes as a diagram; an arrow that all of a box have is drawn once, in bold."""
    unfinished = [state for state in NodeState if state not in FINISHED]
    boxes = {"unfinished": unfinished, "finished": [state for state in NodeState if state in FINISHED]}
    lines, arrows = ["```mermaid", "flowchart LR"], []
    drawn: set[tuple[NodeState, NodeState]] = set()
    for box, members in boxes.items():
        lines += [f"    subgraph {box}", *(f"        {state.word}" for state in members), "    end"]
        for to in NodeState:
            if to not in members and all((at, to) in TRANSITIONS for at in members):
                arrows.append(f"    {box} ==> {to.word}")
                drawn |= {(at, to) for at in members}
    arrows += [f"    {at.word} --> {to.word}" for at, to in sorted(TRANSITIONS.keys() - drawn)]
    return "\n".join([*lines, *arrows, "```"])


# --- the command line -----------------------------------------------------------------------------------------------

#: What most verbs take is told once, in words.
_SHARED_OPTIONS: Final = {"--why", "--json", "--label", "--state", "--name", "--all", "--dry-run", "--yes"}


def verbs() -> str:
    """Write what each verb does, its own options, and the states in which it does something."""
    return table(["verb", "what it does", "to a workflow that is", "to a node that is"], map(_verb, Verb))


def _verb(verb: Verb) -> Sequence[str]:
    command = main.commands[verb.value]
    options = [option for option in command.params if isinstance(option, click.Option) and option.opts[0] not in _SHARED_OPTIONS]
    required = [f"{option.opts[0]} {option.metavar}" for option in options if option.required]
    pieces = [verb.value, *filter(None, command.collect_usage_pieces(click.Context(command))[1:]), *required]
    usage = " ".join(pieces).replace("[REF]...", "REF...")
    told = [" ".join(part.split()) for part in (command.help or "").partition("\b")[0].split("\n\n") if part.strip()]
    told += [f"`{' '.join(filter(None, (option.opts[0], option.metavar)))}`: {option.help}" for option in options]
    cells: list[str] = []
    for by_state in (WORKFLOW_VERBS.get(verb, {}), NODE_VERBS.get(verb, {})):
        states: Mapping[Any, Allowed] = by_state
        words = (state if isinstance(state, str) else state.word for state, allowed in states.items() if allowed is Allowed.DOES)
        cells.append(code(words))
    return [f"`{usage}`", "<br>".join(told), *cells]


# --- forms of JSON --------------------------------------------------------------------------------------------------


def fields(form: type) -> str:
    """Write the fields of a form, as the published schema describes them."""
    schema = wire.definition_schema()["$defs"]
    about = schema[form.__name__]
    rows = []
    for name, field in about["properties"].items():
        default = "required" if name in about.get("required", ()) else f"`{json.dumps(field.get('default'))}`"
        empty = ("`null`", "`false`", '`""`', "`[]`", "`{}`")
        rows.append([f"`{name}`", _values(field, schema), "" if default in empty else default, field.get("description", "")])
    return table(["field", "value", "default", "meaning"], rows)


def _values(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Say what a field takes."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return code(schema[name]["enum"]) if "enum" in schema[name] else "object"
    if "anyOf" in field:
        told = [_values(each, schema) for each in field["anyOf"] if each.get("type") != "null" and "pattern" not in each]
        return " or ".join(dict.fromkeys(filter(None, told)))
    if "enum" in field:
        return code(word for word in field["enum"] if word is not None)
    kind = field.get("type", "anything")
    bounds = [f"{word} {field[key]:,.10g}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in field]
    return " ".join([kind if isinstance(kind, str) else " or ".join(kind), *bounds])


# --- HTTP -----------------------------------------------------------------------------------------------------------

_WHO: Final = {Role.NONE: "everybody", Role.READ: "readers", Role.SUBMIT: "submitters", Role.ADMIN: "admins"}


def routes() -> str:
    """Write what is served, to whom, and with which parameters."""
    rows = []
    for route in ROUTES:
        parameters = code(each.name for each in route.parameters)
        answer = route.answer if isinstance(route.answer, str) else route.answer.__name__
        rows.append([f"{route.method} `{route.path}`", route.about, parameters, answer, _WHO[route.needs]])
    return table(["route", "what it does", "parameters", "answer", "for"], rows)


#: Modules whose errors reach a client; all of them are imported here, so that the list is the same whatever else is.
_HOMES_OF_ERRORS: Final = ("dyrygentd.errors", "dyrygentd.http.")


def errors() -> str:
    """Write the codes of problem documents."""
    kinds: dict[str, tuple[int, str]] = {}
    pending = DyrygentError.__subclasses__()
    while pending:
        kind = pending.pop(0)
        pending += kind.__subclasses__()
        if ("code" in vars(kind) or kind is InternalError) and kind.__module__.startswith(_HOMES_OF_ERRORS):
            about = inspect.cleandoc(kind.__doc__ or "").partition("\n")[0]
            kinds[kind.code] = (kind.status, about.replace("``", "`"))
    return table(
        ["code", "status", "meaning"], ([f"`{word}`", str(status), about] for word, (status, about) in sorted(kinds.items()))
    )


# --- operation ------------------------------------------------------------------------------------------------------


def settings() -> str:
    """Write every key of the configuration, its default, and whether SIGHUP applies it."""
    shown = dict(re.findall(r"(?m)^#(\w+) = (.*)$", example()))
    rows = []
    for setting in config.settings():
        default = "" if setting.default is None else f"`{shown[setting.name]}`"
        about = setting.metadata["about"]
        if setting.metadata["choices"]:
            about += f" One of {code(setting.metadata['choices'])}."
        rows.append([f"`{setting.name}`", default, "yes" if setting.metadata["is_live"] else "", about])
    return table(["key", "default", "reload", "meaning"], rows)


def metrics() -> str:
    """Write every metric, with its labels."""
    families = {family.name: family for family in anyio.run(_families)}
    rows = []
    for family in sorted(families.values(), key=lambda family: family.name):
        name = family.name + "_total" * (family.type == "counter")
        rows.append([f"`{name}`", family.type, code(family._labelnames), family.documentation])
    return table(["metric", "kind", "labels", "meaning"], rows)


async def _families() -> list[Any]:
    """Return the families of all collectors; what a scheduler has is known from one that runs."""
    async with scheduler(FakeBroker({})) as running:
        read = running.statistics()
    daemon = DaemonCollector(dict, lambda: True)
    deputy = DeputyCollector(lambda: read)
    return [
        *SchedulerCollector(lambda: read).collect(),
        *HttpCollector(dict).describe(),
        *daemon.describe(),
        *deputy.describe(),
        *RolesCollector(dict).describe(),
    ]


def alerts() -> str:
    """Write the alerts, as Prometheus reads them."""
    rules = yaml.safe_load((ROOT / "grafana/prometheus/alerts.yml").read_text())
    rows = [
        [f"`{rule['alert']}`", rule["labels"]["severity"], _plain(rule["annotations"]["summary"])]
        for group in rules["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    return table(["alert", "severity", "says"], rows)


def _plain(summary: str) -> str:
    """Leave out what Prometheus fills in."""
    return re.sub(r"{{[^}]*}}", "…", summary.replace(" on {{ $labels.instance }}", ""))
