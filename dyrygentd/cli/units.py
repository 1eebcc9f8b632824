"""`dyrygentd install-units`: print, write or remove what systemd needs, the man pages, and links to the commands."""

import difflib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from dyrygentd.cli.session import fail, say

#: Where systemd looks by itself.
_PREFIXES: Final = (Path("/usr"), Path("/usr/local"))
#: Files below these are units and what else an operator may have changed; the others are documentation.
_CHANGEABLE: Final = ("lib/", "share/systemd/")

#: Takes a file, and what was done to it.
Tell = Callable[[Path, str], object]


_EPILOG: Final = """Below PREFIX: lib/systemd/system, lib/sysusers.d, lib/tmpfiles.d, share/man/man1 and share/doc/dyrygentd,
which has an example of the configuration, a unit for a Celery worker, and drop-ins; with --user: share/systemd/user. The units
start the virtual environment that this command runs from; PREFIX/bin gets links to its commands."""


def command(helps: Callable[[], Mapping[str, str]]) -> click.Command:
    """Make the command.

    Args:
        helps: Returns the man pages and completions of both programs, by their places below the prefix.
    """

    @click.command(
        "install-units",
        epilog=_EPILOG,
    )
    @click.option("--user", "for_user", is_flag=True, help="Units for `systemctl --user`.")
    @click.option(
        "--prefix",
        type=click.Path(path_type=Path),
        metavar="PREFIX",
        help="Write them below this directory. / means /usr.",
    )
    @click.option("--write", is_flag=True, help="Write them below /usr/local, with --user below ~/.local.")
    @click.option("--remove", is_flag=True, help="Remove them from there again; configuration and data stay, and are named.")
    @click.option("--force", is_flag=True, help="Overwrite, or remove, units that differ.")
    @click.option("--verbose", is_flag=True, help="Name every file instead of counting them by directory.")
    @click.option("--json", "is_json", is_flag=True, help="Name every file as JSON.")
    def install_units(**given: Any) -> None:
        """Print, write or remove systemd units, man pages and an example of the configuration."""
        _carry_out(helps(), **given)

    return install_units


def _carry_out(
    helps: Mapping[str, str],
    *,
    for_user: bool,
    prefix: Path | None,
    write: bool,
    remove: bool,
    force: bool,
    verbose: bool,
    is_json: bool,
) -> None:
    from dyrygentd.daemon import unit_files

    if write and remove:
        raise click.UsageError("--write and --remove exclude each other")
    files = unit_files.unit_files(for_user=for_user)
    if prefix is None and not (write or remove):
        click.echo("\n".join(f"# ==> {path}\n{text}" for path, text in files.items()), nl=False)
        say(f"and {len(helps)} man pages and completions for shells; --prefix or --write writes them all")
        return
    prefix = _real_prefix(prefix, for_user=for_user)
    is_ours = prefix == Path.home() / ".local" if for_user else prefix in _PREFIXES
    # A package has its own commands.
    links = unit_files.links(prefix) if is_ours else {}
    with _telling(is_each=verbose, is_json=is_json) as tell:
        if remove:
            _remove({**files, **helps}, links, prefix, tell, for_user=for_user, is_ours=is_ours, force=force)
            return
        _install({**files, **helps}, prefix, tell, force=force)
        _link(links, prefix, tell)
        if for_user and is_ours:
            _write_if_absent(unit_files.user_configuration(), files[unit_files.EXAMPLE], tell)
    _tell_next(prefix, for_user=for_user, is_ours=is_ours)
    for warning in () if for_user else unit_files.warnings():
        say(f"warning: {warning}; make the environment elsewhere, such as in /opt/dyrygentd")


def _real_prefix(given: Path | None, *, for_user: bool) -> Path:
    if given is None:
        return Path.home() / ".local" if for_user else Path("/usr/local")
    # The directories of a system are below /usr, and man looks nowhere else.
    return Path("/usr") if given.absolute() == Path("/") else given.absolute()


@contextmanager
def _telling(*, is_each: bool, is_json: bool) -> Iterator[Tell]:
    """Yield what takes each file with what was done to it; say it all in the end, also if it came to an end before."""
    told: list[tuple[Path, str]] = []
    try:
        yield lambda path, change: told.append((path, change))
    finally:
        if is_json:
            click.echo(json.dumps([{"path": str(path), "change": change} for path, change in told]))
        elif is_each:
            click.echo("".join(f"{path}\n" for path, _ in told), nl=False)
        else:
            of_directory: dict[Path, Counter[str]] = {}
            for path, change in told:
                of_directory.setdefault(path.parent, Counter())[change] += 1
            for directory, changes in of_directory.items():
                click.echo(f"{directory}: {', '.join(f'{count} {change}' for change, count in changes.items())}")


# --- writing --------------------------------------------------------------------------------------------------------


def _install(files: Mapping[str, str], prefix: Path, tell: Tell, *, force: bool) -> None:
    """Write all files, or none if a unit is there that differs; what differs is shown, whether it is overwritten or not."""
    try:
        found = {path: _text_of(prefix / path) for path in files}
        differing = _differing(found, files)
        for path in differing:
            say(f"differs: {prefix / path}\n{_difference(found[path] or '', files[path], prefix / path)}")
        if differing and not force:
            fail(
                f"{len(differing)} files are there and differ, nothing was written",
                next_step="--force writes what has a + above; put changes of your own into drop-ins (`systemctl edit`) before",
            )
        for path, text in files.items():
            if found[path] != text:
                _write(prefix / path, text)
            tell(prefix / path, "unchanged" if found[path] == text else "written")
    except OSError as error:
        fail(f"cannot write '{error.filename}': {error.strerror}", next_step="use sudo, or another --prefix")


def _differing(found: Mapping[str, str | None], files: Mapping[str, str]) -> list[str]:
    return [path for path, text in files.items() if path.startswith(_CHANGEABLE) and found[path] not in (None, text)]


def _difference(there: str, new: str, path: Path) -> str:
    lines = difflib.unified_diff(there.splitlines(), new.splitlines(), f"{path} as it is", "as it would be", n=1, lineterm="")
    return "\n".join(f"  {line}" for line in lines)


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


def _link(links: Mapping[str, Path], prefix: Path, tell: Tell) -> None:
    """Put the commands on PATH. What is there and no link to such a command is somebody's own, and stays."""
    for name, target in links.items():
        path = prefix / name
        try:
            if path.is_symlink() and path.readlink().name == target.name:
                if path.readlink() == target:
                    tell(path, "unchanged")
                    continue
                path.unlink()
            elif os.path.lexists(path):
                if not path.samefile(target):
                    say(f"warning: '{path}' is there already and was left alone; '{target}' is the command of these units")
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)
            tell(path, "linked")
        except OSError as error:
            fail(f"cannot make the link '{path}': {error.strerror}", next_step="use sudo, or another --prefix")


def _write_if_absent(path: Path, text: str, tell: Tell) -> None:
    try:
        if not path.exists():
            _write(path, text)
            tell(path, "written")
    except OSError as error:
        fail(f"cannot write '{error.filename}': {error.strerror}")


# --- removing -------------------------------------------------------------------------------------------------------


def _remove(
    files: Mapping[str, str],
    links: Mapping[str, Path],
    prefix: Path,
    tell: Tell,
    *,
    for_user: bool,
    is_ours: bool,
    force: bool,
) -> None:
    """Remove the files and links; what is configuration or data is named and stays."""
    from dyrygentd.daemon import unit_files

    control = "systemctl --user" if for_user else "systemctl"
    if is_ours and (in_use := unit_files.in_use(for_user=for_user)):
        words = f"{', '.join(in_use)} run, or would be started at the next boot"
        fail(words, next_step=f"{control} disable --now {' '.join(in_use)}")
    try:
        differing = _differing({path: _text_of(prefix / path) for path in files}, files)
        for path in differing:
            say(f"differs: {prefix / path}")
        if differing and not force:
            fail(f"{len(differing)} files differ from what is installed here, nothing was removed", next_step="use --force")
        present = [prefix / path for path in files if (prefix / path).exists()]
        present += [prefix / name for name, target in links.items() if unit_files.is_link_to(prefix / name, target)]
        for each in present:
            each.unlink()
            tell(each, "removed")
        for directory in {path.parent for path in present if path.parent.name == "dyrygentd"}:
            if not any(directory.iterdir()):
                directory.rmdir()
    except OSError as error:
        fail(f"cannot remove '{error.filename}': {error.strerror}", next_step="use sudo, or another --prefix")
    if not present:
        say(f"there is nothing of it below {prefix}")
    if is_ours:
        for left, about in unit_files.left_behind(for_user=for_user):
            say(f"left: {left}: {about}")
        say(f"next: {control} daemon-reload")


def _tell_next(prefix: Path, *, for_user: bool, is_ours: bool) -> None:
    if for_user:
        if not is_ours:
            say(f"systemd looks below ~/.local, not below {prefix}: this is for making a package")
            return
        say("next: systemctl --user daemon-reload")
        say("next: systemctl --user enable --now dyrygentd.socket dyrygentd.service")
        return
    if not is_ours:
        say(f"systemd looks below /usr and /usr/local, not below {prefix}: this is for making a package")
        return
    say(f"next: systemd-sysusers {prefix}/lib/sysusers.d/dyrygentd.conf")
    say(f"next: systemd-tmpfiles --create {prefix}/lib/tmpfiles.d/dyrygentd.conf")
    say("next: systemctl daemon-reload")
    say("next: systemctl enable --now dyrygentd.socket dyrygentd.service")
    say("next: systemctl restart dyrygentd, if it runs already")
