"""Running a command in this process, with every version of click that may be installed."""

import inspect

from click.testing import CliRunner

_MAY_MIX = "mix_stderr" in inspect.signature(CliRunner).parameters


def runner() -> CliRunner:
    """Return a runner that keeps stdout and stderr apart; before click 8.2 it has to be told to."""
    options: dict[str, bool] = {"mix_stderr": False} if _MAY_MIX else {}
    return CliRunner(**options)  # type: ignore[arg-type]
