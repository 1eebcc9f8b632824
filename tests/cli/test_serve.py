"""`dyrygentd` before it serves: what its help costs."""

import subprocess
import sys


def test_help_of_serve_imports_no_server() -> None:
    """The flags are made from the settings, which name bounds of the HTTP side and need nothing that serves."""
    script = (
        "import sys, dyrygentd.cli.serve as s; sys.argv = ['dyrygentd', 'serve', '--help']\n"
        "try: s.main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert "--connections-max" in done.stdout
    modules = set(done.stderr.split())
    assert "dyrygentd.daemon.config" in modules
    assert {"aiohttp", "celery", "kombu", "redis", "dyrygentd.scheduler.shell"} & modules == set()
