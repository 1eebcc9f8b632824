"""The guide for moving over says what works."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "dyrygentd/compat/README.md").read_text()

#: What stands in programs, and what has to stand there afterwards; "@" is the package.
LINES = [
    ("from @.tasks import register_workflow_processor", True),
    ("import @", True),
    ("    from @.workflows import Workflow  # where it is needed", True),
    ("import @.workflows, os", True),
    ("workflow = @.workflows.Workflow()", True),
    ("try: import @.workflows as theirs, @.tasks", True),
    ("LOGGING = {'@.workflows': {}}", True),
    ("from .celery_dyrygent_own import x", False),
    ("my_celery_dyrygent = 1", False),
    ("import ours.celery_dyrygent", False),
    ("celery-dyrygent==0.8.0", False),
]


def test_imports_are_changed_wherever_they_stand(tmp_path: Path) -> None:
    """The command of the guide leaves no import behind, spoils no other name, and may be repeated."""
    (command,) = re.findall(r"(?m)^ *sed -i -E '(.*)' FILES$", GUIDE)
    source = tmp_path / "program.py"
    source.write_text("\n".join(line.replace("@", "celery_dyrygent") for line, _ in LINES) + "\n")
    expected = [
        line.replace("@", "dyrygentd.compat.celery_dyrygent" if changes else "celery_dyrygent") for line, changes in LINES
    ]
    for _ in range(2):
        subprocess.run(["sed", "-i", "-E", command, str(source)], check=True)
        assert source.read_text().splitlines() == expected


def test_both_ways_to_import_work() -> None:
    """What the command makes of `import celery_dyrygent.workflows` can be imported and used."""
    made: dict[str, object] = {}
    exec("import dyrygentd.compat.celery_dyrygent.workflows\nw = dyrygentd.compat.celery_dyrygent.workflows.Workflow()", made)
    assert made["w"]
