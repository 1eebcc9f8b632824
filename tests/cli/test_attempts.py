"""The attempts of a node, as a person reads them."""

import click

from dyrygentd.cli import attempts
from dyrygentd.wire import AttemptView
from tests.cli.support import Ctl, submit, zone

START = 1_700_000_000.0


def _table(shown: list[AttemptView], left_out: int = 0) -> list[str]:
    lines = attempts.lines(shown, left_out, now=START + 100)
    return [line.rstrip() for part in lines for line in click.unstyle(part).splitlines()]


def test_each_has_its_times_and_its_end() -> None:
    """What nobody told needs no column; what is under way runs until now; nothing from outside steers the terminal."""
    shown = [
        AttemptView(11, "failed", START, "t", START + 2, START + 5, 0.0, None, "one@host", "no\x1b[2J" + "!" * 200),
        AttemptView(12, "lost", START + 15.25, "t", None, START + 20, 8.0, 2.25),
        AttemptView(13, "dispatched", START + 40, "t", backoff_s=20),
    ]
    lines = _table(shown, 10)
    assert lines[0] == "10 earlier attempts, not kept one by one"
    assert lines[1].split() == f"ATTEMPT SENT ({zone()}) STARTED ENDED PAUSED WAITED RAN WORKER HOW IT ENDED".split()
    assert " 3.0 s  one@host  failed: no\\x1b[2J!!" in lines[2]
    assert len(lines[2]) < 250
    assert [word.strip() for word in lines[3].split("  ") if word.strip()][-4:] == ["8.0 s", "2.2 s", "4.8 s", "lost"]
    assert lines[4].endswith("under way")
    assert " 20 s " in lines[4]
    assert " 1 min " in lines[4]
    [head, line] = _table([AttemptView(1, "succeeded", START, "t", None, START + 0.25, 0.0, 3.0)])
    assert head.split()[-5:] == ["WAITED", "RAN", "HOW", "IT", "ENDED"]
    assert not {"STARTED", "PAUSED", "WORKER"} & {*head.split()}
    assert line.split()[-3:] == ["250", "ms", "succeeded"]
    assert not _table([])


def test_a_node_tells_what_was_tried(ctl: Ctl) -> None:
    """`show` and `explain` have all attempts of one that was tried again."""
    retry = {"retry": {"attempts": 3, "backoff_s": 0.05, "jitter": 0}}
    workflow = submit(ctl, {"name": "b", "task": "fail", **retry})
    assert ctl("wait", workflow).exit_code == 1
    for words in (("show", workflow, "--node", "b"), ("explain", workflow, "b")):
        said = click.unstyle(ctl(*words).stdout)
        table = said[said.index("ATTEMPT") :].splitlines()
        assert [line.split()[0] for line in table[1:]] == ["1", "2", "3"]
        assert all("failed: " in line for line in table[1:])
        assert "PAUSED" in table[0]
