"""Where a canvas does something else here than on Celery, and where it does the same but not what one reads in it.

Data only: `lint` reports these, and ``tests/conformance`` checks each against Celery itself, so that a row that is no longer
true fails a test. Celery here means 5.6 and 5.7 on Redis results.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Difference:
    """One row of the list.

    Attributes:
        key: A word for it that stays, for output that programs read.
        title: What it is about, in one line.
        native: What Celery does.
        ours: What we do; empty if it is the same, and only surprising.
        reason: Why.
        link: Where Celery's own trackers speak of it, if they do.
        versions: Celery's versions on which it can be seen.
        unseen: Why it cannot always be seen in a canvas that has not run; empty if `lint` reports it.
    """

    key: str
    title: str
    native: str
    ours: str
    reason: str
    link: str = ""
    versions: tuple[str, ...] = ("5.6", "5.7")
    unseen: str = ""

    @property
    def is_surprise(self) -> bool:
        """Tell whether both do the same."""
        return not self.ours


DIFFERENCES: Final = (
    Difference(
        "chain-of-groups",
        "a group after a group after a group",
        "the last of three groups in a row runs once per member of the one before, with that member's value; so does whatever "
        "follows a chord whose body is a group, unless they were joined with `|` or `chain()`",
        "each group runs once, with the list of the group before",
        "a chain waits for each of its steps; with n members each, Celery's third group runs n times n tasks",
        "https://github.com/celery/celery/issues/8180",
    ),
    Difference(
        "nested-group-order",
        "a group directly in a group or header",
        "the inner group's values stand in reverse order in the list that the next task gets",
        "they stand in the order in which they were written",
        "it is a slip in the flattening (`deque.extendleft`), and without a chord Celery keeps the order itself",
    ),
    Difference(
        "empty-group-in-chain",
        "an empty group in a chain",
        "the next task gets [] instead of the value before the group",
        "the group is left out",
        "5.7 does so too",
        versions=("5.6",),
    ),
    Difference(
        "inner-container-options",
        "options, callbacks, arguments or the immutable flag set on a chain or group inside another",
        "they are lost when the inner one is spliced into the outer, unless the outer was built with `|`",
        "they are kept, under the outer one's",
        "what was written should not depend on how Celery happens to flatten it",
    ),
    Difference(
        "group-arguments",
        "arguments kept on a group itself",
        "they are ignored",
        "they come before the members' own, as a chain's and a chord's do",
        "what was written should count",
    ),
    Difference(
        "link-error-added",
        "link or link_error among the options of a group whose members have their own",
        "the group's replace the members' own",
        "both are called",
        "a member's callbacks are as much wanted as without the group; link() and link_error() of Celery add, too",
    ),
    Difference(
        "ignore-result-forced",
        "ignore_result",
        "no result is stored, and nobody who waits for the task learns that it is done",
        "the message says that a result is wanted",
        "the daemon sees the end of a task by its result",
    ),
    Difference(
        "countdown-in-daemon",
        "countdown and eta",
        "the message is sent at once and waits in a worker; 5.6 delays a chord's body as well as its header",
        "the daemon waits, then sends the message; a chord's header waits, its body does not",
        "what waits in a worker is redelivered when the visibility timeout is over, and runs again",
        "https://github.com/celery/celery/issues/7851",
    ),
    Difference(
        "failure-hangs",
        "a failure before a group, inside a nested chord, or by expiry",
        "the ids behind it stay PENDING for ever: whoever waits for the result hangs, and error callbacks of bodies there "
        "are not called",
        "the workflow fails, the nodes behind it are blocked, and their ids tell the failure; error callbacks of each body there "
        "are called once, with its id",
        "nothing hangs silently",
        unseen="it is not known before whether a task will fail",
    ),
    Difference(
        "group-body-revoked",
        "a failed header before a chord's body that is a group",
        "the body's tasks become REVOKED, their error callbacks are not called, and the cause is not told",
        "the workflow fails with the header's error",
        "5.7 tells the cause too",
        versions=("5.6",),
        unseen="it is not known before whether a task will fail",
    ),
    Difference(
        "chord-errback-as-task",
        "link_error on a chord's body that takes (request, exc, traceback), or is a chain that takes a value",
        "if the header fails, it is called inside the worker with request, error and traceback (a chain fails at that)",
        "it is called so if the app has called `dyrygentd.worker.install`, and refused at submission if not; a chain, and what "
        "the submitting program does not have as a task, are sent with the body's task id, as Celery does with unknown tasks",
        "workers call the callbacks of what they were sent, and a body whose header failed is never sent",
    ),
    Difference(
        "body-chain-link-error",
        "link_error on a chord's body that something else follows",
        "if the header fails, it is not called, since the body has become a chain; on 5.7 it is, if the whole stands in a chain",
        "it is called, once, with the body's task id",
        "what was written should not depend on what follows",
    ),
    Difference(
        "chord-without-body",
        "a chord without a body",
        "apply_async raises AttributeError",
        "it is the group of its header",
        "it can be built, and there is but one thing it can mean",
    ),
    Difference(
        "empty-chain",
        "a chain without tasks",
        "apply_async answers None",
        "it is refused; an empty group is a workflow that succeeds with []",
        "there would be no result that anybody could ask for",
        unseen="it is reported as `empty-workflow`",
    ),
    Difference(
        "add-to-chord",
        "a task that adds another one to the chord that it belongs to",
        "the body gets the value of that one as well",
        "the task fails: it is not member of any chord; with `import dyrygentd.worker` in the workers' app it works, in order",
        "the chord is the daemon's, and the worker tells it what was added",
        unseen="with `dyrygentd.worker` in the app there is nothing to report",
    ),
    Difference(
        "request-fields",
        "what a task sees in its own request, and a client in the result",
        "`group` is the id of the group, `eta` the time of a countdown, `root_id` the first task; `children` of a result are the "
        "tasks that follow",
        "`group` and `eta` are None, `root_id` is the workflow (also of one that a task has submitted, which is the parent of "
        "its first tasks), and a result has no children but tasks that its own has sent",
        "the daemon sends what follows, and it waits itself",
        unseen="it depends on what the tasks look at",
    ),
    Difference(
        "group-first-in-member",
        "a chain that starts with a group, inside a group or chord",
        "the group's members do not get the value that precedes, unless the chain was built with `|` or `chain()`",
        "they get it",
        "Celery makes a chord of such a chain only when it runs it, and drops the value on the way",
    ),
    Difference(
        "group-body-of-containers",
        "a chain or chord in a header that ends in a group of chords or chains",
        "the outer chord miscounts its header, and its body never runs",
        "it runs when all of them have finished",
        "nothing hangs silently",
        versions=("5.7",),
    ),
    Difference(
        "chord-in-raw-body",
        "a chain that is the body of a chord, and has a group with a chord in it before another step",
        "apply_async raises AttributeError, unless the chain was built with `|` or `chain()`",
        "it runs",
        "5.6 runs it too",
        versions=("5.7",),
    ),
    Difference(
        "lazy-group",
        "a group of a generator inside something else",
        "values get lost or mixed: a member that ends in a group gives its values one by one, in the order in which they "
        "come, and in some places the members get no value",
        "a generator is read once, when the canvas is submitted, and the group is like any other",
        "Celery freezes the members of a list and the members of a generator in two different ways",
    ),
    Difference(
        "map-routes",
        "routes by name for starmap and chunks",
        "inside a chain or group, and for chunks, the routes see no name that they know, and the default queue is used",
        "the routes see the inner task's name, as Celery's do for a map or starmap on its own",
        "it is meant so (`route_name`), but a copied signature has turned into a dict by then",
    ),
    Difference(
        "map-options",
        "options on map and starmap",
        "they are ignored",
        "they are kept",
        "5.7 keeps them too",
        versions=("5.6",),
    ),
    Difference(
        "broken-in-5.6",
        "canvases that 5.6 refuses or loses",
        "5.6 raises NotImplementedError for a chord before a chain or group, raises TypeError for callbacks among a chord's "
        "options and IndexError for an empty chain in a group, waits for ever for a linked chain with a group in it, and runs "
        "a body too early whose header has a chord with another chord in its body, and never if it has one with a group of "
        "one as its body",
        "they run",
        "5.7 runs them too",
        versions=("5.6",),
        unseen="it depends on how the canvas was written and on Celery's version, which the canvas does not tell",
    ),
    Difference(
        "own-end",
        "a final state that a task stores about itself (`update_state`, `store_result`, `mark_as_done`)",
        "the chain goes on when the task has ended, with what it returned; a success that it has said stays stored as its result",
        "a success is taken for the end at once, a failure or revocation when nothing else was stored for 3 s; with "
        "`import dyrygentd.worker` the end is the end",
        "the daemon sees the end of a task by its result",
        "https://github.com/celery/celery/issues/5179",
        unseen="it is looked for in the task's own code, if the app is there",
    ),
    Difference(
        "own-chain",
        "`self.request.chain`, `chord`, `group` and `group_index` in a task",
        "they tell what follows and surrounds the task, and setting `chain` changes what follows",
        "they are empty; with `import dyrygentd.worker`, `self.request.chain = None` ends the chain as `Ignore` does",
        "what follows a node is not in its message",
        "https://github.com/celery/celery/issues/3550",
        unseen="it is looked for in the task's own code, if the app is there",
    ),
    # --- the same on both sides, and surprising -----------------------------------------------------------------------
    Difference(
        "chord-of-chain-parallel",
        "a chain as a chord's header",
        "`chord(chain(a, b), c)` runs a and b side by side; `chord([chain(a, b)], c)` runs one after the other",
        "",
        "Celery takes the chain for the list of its tasks",
        unseen="Celery's own objects hold the tasks side by side already; it is reported of canvases in JSON",
    ),
    Difference(
        "one-member-group-unrolled",
        "a group of one in a chain",
        "the next task gets the member's value instead of a list with it; `group([a]) | b` and `chord([a], b)` give the list",
        "",
        "Celery unrolls a group of one in a chain",
        "https://github.com/celery/celery/issues/9012",
        unseen="Celery's own objects hold the member already; it is reported of canvases in JSON",
    ),
    Difference(
        "chain-options-first-task",
        "options on a chain",
        "they reach the first task only (and the second, if the first is a group)",
        "",
        "a chain's options are those of its first message",
    ),
    Difference(
        "header-link-error",
        "link_error on a chord",
        "it reaches the body and not the header, unless `task_allow_error_cb_on_chord_header` is set when it is called",
        "",
        "it is Celery's default",
    ),
)


def table() -> str:
    """Write the list as the guide to canvases shows it."""
    rows = ["| what, and its code in `lint` | Celery | here |", "|---|---|---|"]
    for row in DIFFERENCES:
        versions = "" if len(row.versions) > 1 else f" ({row.versions[0]} only)"
        mark = "\\*" if row.unseen else ""
        tracker = f" ([issue]({row.link}))" if row.link else ""
        cells = (f"{row.title}: `{row.key}`{mark}", f"{row.native}{versions}{tracker}", row.ours or "the same")
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    notes = [f"- `{row.key}`: {row.unseen}" for row in DIFFERENCES if row.unseen]
    return "\n".join([*rows, "", "\\* Not always seen by `lint`:", "", *notes])


BY_KEY: Final = {difference.key: difference for difference in DIFFERENCES}
