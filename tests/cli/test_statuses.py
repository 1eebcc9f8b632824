"""Exit statuses: each example that the guide gives ends as it says there."""

import re
import shlex
from pathlib import Path

import pytest

from dyrygentd import cli
from tests.cli.support import Ctl, submit
from tests.http.support import Daemon

_ROW = re.compile(r"^\| (\d+) \| .* \| (.*) \|$", re.M)
_TEXT = Path(cli.__file__).with_name("README.md").read_text().rpartition("## Exit status")[2]
EXAMPLES = [(int(status), example) for status, examples in _ROW.findall(_TEXT) for example in re.findall(r"`([^`]+)`", examples)]


def test_the_guide_has_examples() -> None:
    """Of each status that a command can end with by itself."""
    assert {status for status, _ in EXAMPLES} == {0, 1, 2, 3}


@pytest.mark.parametrize(("status", "example"), EXAMPLES, ids=lambda given: str(given))
def test_examples_end_as_the_guide_says(slow_ctl: Ctl, holding: Daemon, tmp_path: Path, status: int, example: str) -> None:
    """One kind of mistake has one status, whatever the command is."""
    (tmp_path / "wrong.json").write_text('{"nodes": [{"name": "a"}]}')
    (tmp_path / "broken.json").write_text('{"nodes": [')
    failed = submit(slow_ctl, {"name": "a", "task": "fail"}, name="FAILED")
    holding.let_go()
    holding.finish(failed)
    submit(slow_ctl, {"name": "x"}, name="RUNNING")
    submit(slow_ctl, {"name": "go", "gate": True}, name="GATED")
    result = slow_ctl(*shlex.split(example))
    assert result.exit_code == status, result.output
