"""A disk that fails on demand below a process under test, without being root: see ``disk_faults.c``."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class FaultyDisk:
    """The disk below the files whose path contains ``files``, of processes that are started with `environment`."""

    def __init__(self, directory: Path, *, files: str) -> None:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            pytest.skip("NOT RUN: there is no C compiler, so no disk can be made to fail below a real process")
        library = directory / "disk_faults.so"
        source = Path(__file__).with_name("disk_faults.c")
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
        subprocess.run(command, check=True)
        self._fault = directory / "disk_fault"
        self._fault.write_text("")
        self.environment = {
            "LD_PRELOAD": str(library),
            "DYRYGENTD_TEST_DISK_FILES": files,
            "DYRYGENTD_TEST_DISK_FAULT": str(self._fault),
            "DYRYGENTD_TEST_CLOCK": str(directory / "clock"),
        }
        self._clock = directory / "clock"

    @contextmanager
    def failing(self, fault: str) -> Iterator[None]:
        """Let it be full, broken, read-only, or slow for so many milliseconds a sync: ``slow 5000``."""
        self.set(fault)
        try:
            yield
        finally:
            self.set("")

    def set(self, fault: str) -> None:
        """Let it fail from now on, or work if ``fault`` is empty."""
        _write(self._fault, fault)

    def set_clock_by(self, seconds: int) -> None:
        """Set the clock of the process under test so far from the real one."""
        _write(self._clock, str(seconds))


def _write(path: Path, text: str) -> None:
    """Write in one step, since the process under test reads it at any time."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
