"""The tests are a mirror of the package: each module has its own, and few of them reach inside to steer it."""

import ast
from collections.abc import Iterator
from typing import Final

from tests.support.daemon import ROOT

_PACKAGE, _TESTS = ROOT / "dyrygentd", ROOT / "tests"
_MODULES: Final = {str(path.relative_to(_PACKAGE)) for path in _PACKAGE.rglob("*.py") if path.name != "__init__.py"}
#: Tests at the top that are of no module: of the package as a whole, of a room's face, or of a promise to users.
_OF_THE_WHOLE: Final = frozenset(
    {
        "test_circles",
        "test_docs",
        "test_errors",
        "test_guides",
        "test_house",
        "test_layers",
        "test_mirror",
        "test_reprs",
        "test_map",
        "test_owners",
        "test_words",
    }
)

#: ``{module without tests of its own: which tests show it, or why none need to}``
_ELSEWHERE: Final = {
    "__main__.py": "cli/test_serve.py runs the command that it calls",
    "canvas/refs.py": "canvas/test_builder.py adds nodes and ends sections",
    "cli/apps.py": "an option of cli/test_submit.py and cli/test_lint.py",
    "cli/check.py": "daemon/test_check.py runs the command",
    "cli/choosing.py": "cli/test_verbs.py chooses",
    "cli/complaints.py": "cli/test_ends.py reads what commands say when they fail",
    "cli/control.py": "cli/test_dyrygentctl.py runs its commands",
    "cli/dot.py": "cli/test_graph.py draws",
    "cli/drawings.py": "cli/test_report.py looks at what is drawn",
    "cli/documents.py": "cli/test_submit.py submits them",
    "cli/gantt.py": "cli/test_timeline.py draws",
    "cli/manual.py": "daemon/test_units.py reads the pages",
    "cli/names.py": "cli/test_dyrygentctl.py and cli/test_verbs.py name workflows",
    "cli/performing.py": "cli/test_verbs.py performs",
    "cli/perfetto.py": "cli/test_timeline.py writes traces",
    "cli/render.py": "cli/test_screens.py shows what it draws",
    "cli/report_page.py": "cli/test_report.py reads it",
    "cli/report_style.py": "colours and sizes",
    "cli/section_ends.py": "cli/test_levels.py has levels behind sections, cli/test_graph.py draws them",
    "cli/session.py": "cli/test_ends.py and cli/test_dyrygentctl.py run commands in it",
    "cli/show.py": "cli/test_screens.py shows its screens",
    "cli/target.py": "cli/test_dyrygentctl.py and test_remote.py reach daemons by it",
    "cli/tui/app.py": "cli/test_tui.py starts and ends it",
    "cli/tui/choosing.py": "cli/test_tui.py chooses",
    "cli/tui/dialogs.py": "cli/test_tui.py answers questions",
    "cli/tui/feed.py": "cli/test_tui.py restarts the daemon that it asks, and counts what it asks",
    "cli/tui/masthead.py": "cli/test_tui.py reads it at every size",
    "cli/tui/lines.py": "cli/test_tui.py reads them at every size",
    "cli/tui/rows.py": "cli/test_tui.py goes through them",
    "cli/tui/texts.py": "cli/test_tui.py reads them",
    "cli/tui/view.py": "cli/test_tui.py is about it",
    "cli/units.py": "daemon/test_units.py runs the command",
    "cli/writing.py": "cli/test_timeline.py writes files",
    "client/again.py": "client/test_lost_answers.py asks again",
    "client/bodies.py": "client/test_sync.py and client/test_aio.py send them",
    "client/channel.py": "client/test_aio.py speaks over it",
    "client/forms.py": "client/test_sync.py and client/test_aio.py send and read them",
    "client/patience.py": "client/test_connection.py and http/test_hostile.py need it",
    "client/sockets.py": "client/test_connection.py misses them",
    "compat/celery_dyrygent/adoption.py": "compat/test_adoption.py, one floor up",
    "compat/celery_dyrygent/celery/entities.py": "names of another library: compat/test_same.py compares them",
    "compat/celery_dyrygent/celery/inspect.py": "names of another library: compat/test_same.py compares them",
    "compat/celery_dyrygent/result.py": "compat/test_workflow.py asks results",
    "compat/celery_dyrygent/tasks/processor.py": "names of another library: compat/test_same.py compares them",
    "compat/celery_dyrygent/workflows/exceptions.py": "names of another library: compat/test_same.py compares them",
    "compat/celery_dyrygent/workflows/hooks.py": "compat/test_workflow.py registers them",
    "compat/celery_dyrygent/workflows/node.py": "compat/test_workflow.py builds with them",
    "compat/celery_dyrygent/workflows/workflow.py": "compat/test_workflow.py, two floors up",
    "core/bounds.py": "numbers, each held where it is used",
    "core/cancelling.py": "core/test_section_ends.py cancels what cleans up, and core/test_verbs.py the rest",
    "core/causes.py": "core/test_lost_causes.py and core/test_cancelled.py are about causes",
    "core/counting.py": "core/test_engine.py and test_metrics.py read the counts",
    "core/deciding.py": "core/test_choices.py decides by it",
    "core/edges.py": "core/test_graph.py goes along them both ways",
    "core/events.py": "plain data",
    "core/fold_edges.py": "core/test_folding.py folds by it",
    "core/node_states.py": "core/test_states.py tells each move, core/test_invariants.py each count",
    "core/notes.py": "plain data",
    "core/origin.py": "plain data",
    "core/parent_task.py": "plain data",
    "core/start.py": "core/test_start_now.py and core/test_series_runs.py begin",
    "core/policy.py": "plain data; scenarios/retry_which.txt and scenarios/retry_jitter.txt show its arithmetic",
    "core/records.py": "plain data",
    "core/reopening.py": "core/test_verbs.py reopens nodes in every state, core/test_steps.py in steps",
    "core/section_counts.py": "core/test_section_ends.py counts by it, and each invariant anew",
    "core/node_spec.py": "core/test_graph.py builds graphs of it",
    "core/spec_checks.py": "core/test_graph.py and core/test_section_ends.py are refused by it",
    "core/steering.py": "core/test_verbs.py holds, releases and cancels in every state",
    "core/task_words.py": "core/test_standing.py says them",
    "core/turn.py": "core/test_engine.py takes turns",
    "core/verdicts.py": "core/test_hooks.py, core/test_section_ends.py and the rules of core/test_model_verbs.py decide by it",
    "daemon/check_workers.py": "daemon/test_check.py runs it",
    "daemon/example.py": "daemon/test_units.py compares the file",
    "daemon/in_use.py": "daemon/test_check.py asks who has the files",
    "daemon/keepalive.py": "daemon/test_systemd.py counts what it tells systemd",
    "daemon/kept.py": "daemon/test_broker.py keeps brokers",
    "daemon/kinds.py": "plain data of daemon/test_config.py",
    "daemon/lag.py": "a loop of four lines; grafana/test_alerts.py has its metric",
    "daemon/own_broker.py": "daemon/test_broker.py starts it",
    "daemon/unit_files.py": "daemon/test_units.py writes them",
    "demo/processes.py": "cli/test_demo.py runs the demo",
    "demo/stage.py": "cli/test_demo.py runs the demo",
    "errbacks.py": "tasks/test_callbacks.py and test_worker.py run it",
    "http/api.py": "http/test_routes.py and http/test_verbs.py ask it",
    "http/app.py": "http/test_routes.py and http/test_stream.py start it",
    "http/around.py": "http/test_errors.py and http/test_access.py see what stands around each route",
    "http/limits.py": "plain data",
    "http/openapi.py": "http/test_routes.py compares it; bombs/test_openapi.py sends what it allows",
    "http/parameters.py": "http/test_errors.py sends bad ones",
    "http/problems.py": "http/test_errors.py reads them",
    "http/seats.py": "http/test_errors.py fills the places",
    "http/server.py": "http/test_sockets.py serves",
    "http/table.py": "http/test_routes.py and http/test_access.py walk through the table",
    "lint/differences.py": "lint/test_report.py and conformance/test_lint.py compare it",
    "lint/faults.py": "plain data",
    "lint/sections.py": "lint/test_graph.py has a section and what runs beside it",
    "misspelt.py": "tasks/test_written.py and daemon/test_config.py misspell",
    "loopback/passing.py": "loopback/test_server.py has it pass things on",
    "loopback/refusals.py": "loopback/test_server.py is refused with each of them",
    "ports/facts.py": "plain data",
    "ports/values.py": "plain data, and a port whose adapters store/test_values.py tries",
    "scheduler/value_reading.py": "scheduler/test_spilling.py reads back what was written",
    "ports/mailbox.py": "plain data, and a port whose one adapter is in store/postgres",
    "scheduler/bottoms.py": "scheduler/test_families.py explains through levels",
    "scheduler/adapters.py": "scheduler/test_scheduler.py and transport/test_app.py choose them",
    "scheduler/admissions.py": "scheduler/test_series.py and scheduler/test_keys.py read the answers",
    "scheduler/answers.py": "deputy/test_deputy.py compares what a leader and a deputy answer by it",
    "scheduler/archive.py": "scheduler/test_verbs.py and scheduler/test_keys.py bring workflows back",
    "scheduler/courier.py": "scheduler/test_trouble.py and scheduler/test_crash.py have messages delayed and doubted",
    "scheduler/decided.py": "scheduler/test_lost.py reads what was decided",
    "scheduler/doubts.py": "scheduler/test_explanations.py tells them",
    "scheduler/expiry.py": "scheduler/test_scheduler.py lets workflows expire",
    "core/holding.py": "core/test_workflow.py and core/test_children.py have nodes held",
    "scheduler/foreign.py": "scheduler/test_door.py refuses them",
    "scheduler/faces.py": "http/test_faces.py looks at workflows by it",
    "scheduler/handle.py": "scheduler/test_scheduler.py uses it throughout",
    "scheduler/holders.py": "scheduler/test_explain.py names them",
    "scheduler/limits.py": "plain data; contracts/test_clock.py has its clock",
    "scheduler/listeners.py": "scheduler/test_scheduler.py follows workflows",
    "scheduler/nested_ids.py": "scheduler/test_door.py refuses them",
    "scheduler/outages.py": "scheduler/test_explanations.py tells them",
    "scheduler/pattern_process.py": "scheduler/test_redaction.py hangs, kills and floods it",
    "scheduler/queries.py": "scheduler/test_scheduler.py and scheduler/test_overview.py ask",
    "scheduler/recovery.py": "scheduler/test_crash.py recovers after every effect",
    "scheduler/report.py": "test_metrics.py reads it",
    "scheduler/service.py": "deputy/test_deputy.py asks a leader and its deputy by it, and compares their answers",
    "scheduler/sight.py": "an interface; scheduler/test_turns.py and scheduler/test_scheduler.py look by it",
    "scheduler/shell.py": "scheduler/test_scheduler.py is about the face of the room",
    "scheduler/submissions.py": "scheduler/test_keys.py and scheduler/test_trouble.py submit",
    "scheduler/taking_turns.py": "ten lines; scheduler/test_large_verbs.py counts the turns",
    "scheduler/troubles.py": "scheduler/test_trouble.py makes them",
    "store/choice.py": "daemon/test_config.py and scheduler/test_scheduler.py name databases",
    "store/connections.py": "store/test_statements.py and store/test_sqlite.py connect",
    "store/postgres/letter_rows.py": "store/postgres/test_mailbox.py leaves, takes and answers by them",
    "store/postgres/reader.py": "contracts/test_store.py reads by it",
    "store/postgres/store.py": "contracts/test_store.py and store/postgres/test_turns.py open it",
    "store/postgres/writing.py": "contracts/test_store.py writes by it, store/postgres/test_turns.py again what was in doubt",
    "store/continuity.py": "store/test_reopened.py has files that went back",
    "store/copies.py": "store/test_versions.py and store/test_care.py make copies",
    "store/history.py": "store/test_sqlite.py expires by it",
    "store/log.py": "store/test_damage.py damages it",
    "store/names.py": "three names of files",
    "store/readable.py": "contracts/test_store.py and store/postgres/test_onlooker.py read by it",
    "store/reader.py": "contracts/test_store.py reads by it, on each database",
    "store/sqlite_reader.py": "store/test_listings.py and store/test_sqlite.py read",
    "store/rows.py": "store/test_sqlite.py and contracts/test_store.py write and read all rows",
    "store/writing.py": "store/test_sqlite.py writes by it",
    "tasks/current.py": "client/test_started_in_a_task.py starts in one",
    "tasks/documents.py": "lint/test_documents.py reads them",
    "tasks/fleet.py": "lint/test_fleet.py has fleets",
    "tasks/known.py": "tasks/test_written.py finds tasks by name",
    "tasks/priorities.py": "tasks/test_written.py inherits them",
    "tasks/remarks.py": "lint/test_surroundings.py and daemon/test_check.py remark",
    "tasks/submitted.py": "tasks/test_written.py and client/test_sync.py submit",
    "tasks/unread.py": "tasks/test_overrides.py looks at values too early",
    "testing/broker.py": "contracts/test_dispatcher.py and contracts/test_watcher.py hold the fakes to the ports",
    "testing/clock.py": "contracts/test_clock.py",
    "testing/reports.py": "contracts/test_reports.py",
    "testing/store.py": "contracts/test_store.py",
    "transport/broadcast.py": "transport/test_inspector.py and daemon/test_check.py ask by it",
    "transport/broker_connection.py": "transport/test_dispatcher.py cuts it",
    "transport/decoding.py": "transport/test_meta.py and transport/test_values.py decode",
    "transport/found.py": "transport/test_inspector.py finds by it",
    "transport/internals.py": "test_versions.py changes versions under it",
    "transport/marked_publishing.py": "transport/test_dispatcher.py is about this way to publish",
    "transport/outcomes.py": "contracts/test_keeper.py",
    "transport/publishing.py": "plain data, and one choice that transport/test_plain_publishing.py makes",
    "transport/redis_asking.py": "transport/test_dispatcher.py cuts it",
    "transport/redis_connections.py": "transport/test_redis_watcher.py loses connections",
    "transport/redis_push.py": "transport/test_dispatcher.py and contracts/test_dispatcher.py push by it",
    "transport/redis_queues.py": "transport/test_revoking.py and contracts/test_inspector.py look into queues",
    "transport/redis_reading.py": "transport/test_redis_watcher.py reads by it",
    "transport/redis_results.py": "transport/test_redis_watcher.py, under the name of what it is",
    "transport/report_entries.py": "transport/test_reports.py reads entries of every kind",
    "transport/results.py": "transport/test_stored_results.py and transport/test_meta.py read results",
    "transport/stored.py": "integration/test_as_stored.py stores",
    "wire/again.py": "client/test_lost_answers.py asks again",
    "wire/digests.py": "scheduler/test_keys.py compares definitions by them",
    "scheduler/reception.py": "scheduler/test_verbs.py, scheduler/test_imports.py and http/test_verbs.py come to it",
    "wire/letters.py": "scheduler/test_letters.py writes and reads them",
    "wire/exports.py": "scheduler/test_imports.py writes and reads them",
    "wire/forms.py": "plain data; wire/test_mistakes.py sends what does not fit",
    "wire/overview.py": "plain data",
    "wire/parents.py": "scheduler/test_parent_task.py sends them",
    "wire/plain.py": "cli/test_dyrygentctl.py writes with --json by it",
    "wire/requests.py": "http/test_verbs.py sends them",
    "wire/schema.py": "cli/test_submit.py and test_docs.py check against it",
    "wire/showing.py": "wire/test_views.py shows by it",
    "wire/summary.py": "plain data",
    "wire/values.py": "plain data",
    "wire/words.py": "three words that are compared in http/test_routes.py",
    "witnesses.py": "scheduler/test_census.py and scheduler/test_lost.py have witnesses",
    "worker/additions.py": "conformance/test_spawn.py adds in real workers",
    "worker/requests.py": "test_worker.py, with the rest of its room",
    "worker/spawning.py": "conformance/test_spawn.py adds in real workers",
    "worker/running.py": "test_worker.py, with the rest of its room",
}

#: ``{file: what of ours its tests replace: why that is not handed in}``; nothing may join it.
_PATCHED: Final = {
    "cli/test_submit.py: documents._MERGED_MAX": "half a million names take seconds, and the loader is PyYAML's class",
    "cli/test_tui.py: standstill.AFTER_S": "twenty seconds that nobody sets: handed down, it would pass through three screens",
    "client/test_sync.py: forms.PAGE": "five workflows instead of a thousand; how long a page is, is nobody's to choose",
    "compat/conftest.py: Workflow.socket": "users set it so, as that library has it",
    "compat/conftest.py: Workflow.via_worker": "users set it so, as that library has it",
    "compat/test_workflow.py: Client.submit": "an answer that is lost between that library's names and the client",
    "daemon/test_servers.py: servers._programs": "which servers a host has",
    "http/test_fold_events.py: guard.peer_of": "another user at the other end, which only root could be",
    "http/test_hostile.py: connection.BUSY_PAUSES_S": "clients come again for seconds; the machine may need longer",
    "http/test_stream.py: guard.peer_of": "another user at the other end, which only root could be",
    "scheduler/test_large_verbs.py: engine.verb_in_steps": "the process ends between two steps",
    "scheduler/test_large_verbs.py: steps.STEP": "steps of two thousand nodes take minutes in a whole scheduler",
    "scheduler/test_redaction.py: pattern_process._WAIT_S": "it is changed while the process runs: first patience, then none",
    "scheduler/test_refused_rows.py: outcomes.succeeded": "a bug of ours, which has to be made up",
    "scheduler/test_unrun.py: unrun.RETRY_FIRST_S": "the pause of all who try again, hurried for one",
    "scheduler/test_unrun.py: unrun._NODES_MAX": "a hundred thousand nodes take minutes",
    "transport/test_dispatcher.py: marked_publishing._BACKLOG_S": "how old an answer may be, without waiting for it to age",
    "wire/test_bounds.py: bounds.EDGES_MAX": "four million names take minutes",
    "wire/test_bounds.py: bounds._WINDOW": "what it is must not matter: every test is run with three",
}


def _sibling(module: str) -> str:
    room, _, name = module.rpartition("/")
    return f"{room}/test_{name}".removeprefix("/")


def test_each_module_has_its_tests() -> None:
    """Whoever changes a module finds what shows its rule beside it, by its name, or is told here where else."""
    without = {module for module in _MODULES if not (_TESTS / _sibling(module)).exists()}
    assert without - _ELSEWHERE.keys() == set(), "write them a test of their own, or say here why they have none"


def test_what_is_excused_needs_it() -> None:
    """A module that has tests of its own by now, or is gone, leaves the list."""
    assert {module for module in _ELSEWHERE if (_TESTS / _sibling(module)).exists()} == set()
    assert _ELSEWHERE.keys() - _MODULES == set()


def test_reasons_hold() -> None:
    """A reason is a file that is there, or a few words."""
    files = {word.rstrip(",;:") for reason in _ELSEWHERE.values() for word in reason.split() if ".py" in word}
    assert {file for file in files if not (_TESTS / file).exists()} == set()
    assert {module for module, reason in _ELSEWHERE.items() if len(reason) < 10} == set()


def test_tests_stand_in_their_rooms() -> None:
    """At the top stand the tests of the modules at the top, by name, and of the whole."""
    modules = {module.removesuffix(".py") for module in _MODULES if "/" not in module}
    modules |= {path.name for path in _PACKAGE.iterdir() if path.is_dir()}
    names = {path.stem for path in _TESTS.glob("test_*.py")} - _OF_THE_WHOLE
    assert {name for name in names if not any(f"{name}_".startswith(f"test_{module}_") for module in modules)} == set()


def test_few_patches_reach_inside() -> None:
    """A constant that tests steer is an argument, and a function that they replace is handed in; what is left says why."""
    assert set(_patches()) == _PATCHED.keys()


def _patches() -> Iterator[str]:
    """Yield ``file: name`` for each attribute of ours that a test replaces."""
    for path in sorted(_TESTS.rglob("*.py")):
        text = path.read_text()
        if ".setattr(" not in text:
            continue
        tree = ast.parse(text)
        ours = _ours_in(tree)
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr"):
                continue
            first, *rest = node.args
            if isinstance(first, ast.Constant):
                target = str(first.value)
            else:
                target = f"{ast.unparse(first)}.{ast.literal_eval(rest[0]) if isinstance(rest[0], ast.Constant) else '?'}"
                if target.split(".")[0] not in ours:
                    continue
            if target.split(".")[0] in ours or target.startswith("dyrygentd."):
                yield f"{path.relative_to(_TESTS)}: {'.'.join(target.split('.')[-2:])}"


def _ours_in(tree: ast.Module) -> set[str]:
    """Return the names in a file of tests that are modules or classes of ours."""
    found = {"dyrygentd"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dyrygentd"):
            found |= {each.asname or each.name for each in node.names}
        if isinstance(node, ast.withitem) and "scheduler(" in ast.unparse(node.context_expr) and node.optional_vars is not None:
            found.add(ast.unparse(node.optional_vars))
    return found
