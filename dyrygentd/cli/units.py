"""`dyrygentd install-units`: print or write what systemd needs, and the man pages."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from dyrygentd.cli import fail, say

#: Where systemd looks by itself.
_PREFIXES: Final = (Path("/usr"), Path("/usr/local"))


@click.command(
    "install-units",
    epilog="""Below PREFIX: lib/systemd/system, lib/sysusers.d, lib/tmpfiles.d, share/man/man1 and share/doc/dyrygentd, which has
    an example of the configuration and drop-ins; with --user: share/systemd/user. The units start the virtual environment that
    this command runs from.""",
)
@click.option("--user", "for_user", is_flag=True, help="Units for `systemctl --user`.")
@click.option(
    "--prefix",
    type=click.Path(path_type=Path),
    metavar="PREFIX",
    help="Write them below this directory. / means /usr.",
)
@click.option("--write", is_flag=True, help="Write them below /usr/local, with --user below ~/.local.")
@click.option("--force", is_flag=True, help="Overwrite files that differ.")
def install_units(for_user: bool, prefix: Path | None, write: bool, force: bool) -> None:
    """Print, or write, systemd units, man pages and an example of the configuration."""
    from dyrygentd.cli.manual import pages
    from dyrygentd.daemon import unit_files

    files = unit_files.unit_files(for_user=for_user)
    manual = {f"share/man/man1/{name}": page for name, page in pages().items()}
    if prefix is None and not write:
        click.echo("\n".join(f"# ==> {path}\n{text}" for path, text in files.items()), nl=False)
        say(f"and {len(manual)} man pages; --prefix or --write writes them all")
    else:
        prefix = _real_prefix(prefix, for_user=for_user)
        _install(files | manual, prefix, force=force)
        _tell_next(prefix, for_user=for_user)
    for warning in () if for_user else unit_files.warnings():
        say(f"warning: {warning}; make the environment elsewhere, such as in /opt/dyrygentd")


def _real_prefix(given: Path | None, *, for_user: bool) -> Path:
    if given is None:
        return Path.home() / ".local" if for_user else Path("/usr/local")
    # The directories of a system are below /usr, and man looks nowhere else.
    return Path("/usr") if given.absolute() == Path("/") else given.absolute()


def _install(files: Mapping[str, str], prefix: Path, *, force: bool) -> None:
    """Write all files, or none if one is there that somebody has changed."""
    try:
        found = {path: _text_of(prefix / path) for path in files}
        differing = [path for path, text in files.items() if found[path] not in (None, text)]
        if differing and not force:
            for path in differing:
                say(f"differs: {prefix / path}")
            fail(f"{len(differing)} files are there and differ, nothing was written", next_step="look at them, then use --force")
        for path, text in files.items():
            if found[path] != text:
                _write(prefix / path, text)
            click.echo(prefix / path)
    except OSError as error:
        fail(f"cannot write '{error.filename}': {error.strerror}", next_step="use sudo, or another --prefix")


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(errors="surrogateescape")
    except FileNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    """Write a file that everybody may read, all of it or nothing."""
    for directory in reversed(path.parents):
        if not directory.exists():
            directory.mkdir()
            directory.chmod(0o755)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "w") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _tell_next(prefix: Path, *, for_user: bool) -> None:
    if for_user:
        if prefix != Path.home() / ".local":
            say(f"systemd looks below ~/.local, not below {prefix}: this is for making a package")
            return
        say("next: systemctl --user daemon-reload")
        say("next: systemctl --user enable --now dyrygentd.socket dyrygentd.service")
        return
    if prefix not in _PREFIXES:
        say(f"systemd looks below /usr and /usr/local, not below {prefix}: this is for making a package")
        return
    say(f"next: systemd-sysusers {prefix}/lib/sysusers.d/dyrygentd.conf")
    say(f"next: systemd-tmpfiles --create {prefix}/lib/tmpfiles.d/dyrygentd.conf")
    say("next: systemctl daemon-reload")
    say("next: systemctl enable --now dyrygentd.socket dyrygentd.service")
