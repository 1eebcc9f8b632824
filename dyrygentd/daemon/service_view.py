"""What an installed service reads: unit, drop-ins, environment files and credentials, as far as this user may see them.

`check-config` is run by a person whose shell has none of that. Units are looked for where systemd.unit(5) says that they lie,
without asking systemd, which need not run: on a host that is being set up, or in an image.
"""

import os
import pwd
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dyrygentd.daemon.systemd import CREDENTIALS
from dyrygentd.daemon.unit_files import warnings

_UNITS: Final = ("etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system")
_STORES: Final = ("etc/credstore", "run/credstore", "usr/local/lib/credstore", "usr/lib/credstore")
_DECRYPT_S: Final = 30.0
_PAIR: Final = re.compile(r"\s*([A-Za-z_]\w*)=(.*)")


@dataclass(slots=True)
class ServiceView:
    """What a service would be started with.

    Attributes:
        unit: Its name.
        environ: The variables that it gets; nothing of this process's own.
        secrets: ``{setting: value}`` of its credentials.
        arguments: What stands behind ``serve`` in its ``ExecStart=``.
        user: Whom it runs as; empty for root.
        directory: Where it runs.
        looked_at: What was read, for a person.
        unseen: What could not be read, and why.
    """

    unit: str
    environ: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)
    user: str = ""
    directory: Path = Path("/")
    looked_at: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)


def unit_of(instance: str | None, root: Path = Path("/")) -> Path | None:
    """Return the file of the installed service, or of the template of an instance; None if there is none."""
    names = ["dyrygentd.service"] if instance is None else [f"dyrygentd@{instance}.service", "dyrygentd@.service"]
    places = (root / directory / name for name in names for directory in _UNITS)
    return next((place for place in places if _is_file(place)), None)


def view_of(instance: str | None, root: Path = Path("/")) -> ServiceView | None:
    """Read what the service reads; None if it is not installed.

    Args:
        instance: Of ``dyrygentd@NAME.service``.
        root: Where the system is.
    """
    fragment = unit_of(instance, root)
    if fragment is None:
        return None
    view = ServiceView(f"dyrygentd{'' if instance is None else f'@{instance}'}.service")
    settings: dict[str, list[str]] = {}
    for path in (fragment, *_drop_ins(instance, root)):
        text = _text_of(path, view)
        for name, value in _settings_of(text or ""):
            if value:
                settings.setdefault(name, []).append(_specified(value, instance, view.unit))
            else:
                # An empty one takes back what was said before.
                settings[name] = []
    _take(settings, view, root)
    return view


def _take(settings: dict[str, list[str]], view: ServiceView, root: Path) -> None:
    last = {name: values[-1] for name, values in settings.items() if values}
    view.user = last.get("User", "")
    for variable, key, parent in (
        ("STATE_DIRECTORY", "StateDirectory", "var/lib"),
        ("RUNTIME_DIRECTORY", "RuntimeDirectory", "run"),
    ):
        if key in last:
            view.environ[variable] = ":".join(str(root / parent / each) for each in last[key].split())
    directory = last.get("WorkingDirectory", "/").removeprefix("-")
    view.directory = root / directory.lstrip("/")
    for line in settings.get("Environment", ()):
        for word in _words(line):
            name, equals, value = word.partition("=")
            if equals:
                view.environ[name] = value
    for name in settings.get("EnvironmentFile", ()):
        path = root / name.removeprefix("-").lstrip("/")
        text = _text_of(path, view, is_optional=name.startswith("-"))
        view.environ.update(_variables_of(text or ""))
    words = _words(last.get("ExecStart", ""))
    view.arguments = words[words.index("serve") + 1 :] if "serve" in words else []
    _take_credentials(settings, view, root)


def _take_credentials(settings: dict[str, list[str]], view: ServiceView, root: Path) -> None:
    for line in settings.get("SetCredential", ()):
        name, _, value = line.partition(":")
        if name in CREDENTIALS and value.strip():
            view.secrets[CREDENTIALS[name]] = value.strip()
    for key, suffix in (("LoadCredential", ""), ("LoadCredentialEncrypted", ".encrypted")):
        for line in settings.get(key, ()):
            name, _, place = line.partition(":")
            if name not in CREDENTIALS:
                continue
            value = _credential(name, place or name, suffix, view, root)
            if value:
                view.secrets[CREDENTIALS[name]] = value
    if "ImportCredential" in settings:
        view.unseen.append("what `ImportCredential=` brings")


def _credential(name: str, place: str, suffix: str, view: ServiceView, root: Path) -> str:
    """Return a secret, empty if there is none, or if this user cannot see it."""
    paths = [root / place.lstrip("/")] if place.startswith("/") else [root / f"{store}{suffix}" / place for store in _STORES]
    for path in paths:
        try:
            if not path.exists():
                continue
            content = path.read_bytes()
        except PermissionError:
            view.unseen.append(f"the credential '{name}', in '{path}', which this user may not read")
            return ""
        except OSError as error:
            view.unseen.append(f"the credential '{name}', in '{path}': {error.strerror}")
            return ""
        if suffix:
            return _decrypted(name, path, view)
        view.looked_at.append(f"credential {name} ({path})")
        return content.decode(errors="replace").strip()
    return ""


def _decrypted(name: str, path: Path, view: ServiceView) -> str:
    tool = shutil.which("systemd-creds")
    if tool is None:
        view.unseen.append(f"the credential '{name}', which is encrypted: there is no systemd-creds here")
        return ""
    command = [tool, "decrypt", f"--name={name}", str(path), "-"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_DECRYPT_S, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        view.unseen.append(f"the credential '{name}', in '{path}', which systemd-creds cannot decrypt for this user")
        return ""
    view.looked_at.append(f"credential {name} ({path})")
    return done.stdout.decode(errors="replace").strip()


# --- files ----------------------------------------------------------------------------------------------------------


def _drop_ins(instance: str | None, root: Path) -> list[Path]:
    """Return the drop-ins of a unit in their order: by file name, and of one name the one that goes first."""
    names = ["dyrygentd.service"] if instance is None else [f"dyrygentd@{instance}.service", "dyrygentd@.service"]
    found: dict[str, Path] = {}
    for name in names:
        for directory in _UNITS:
            try:
                for path in (root / directory / f"{name}.d").glob("*.conf"):
                    found.setdefault(path.name, path)
            except OSError:
                continue
    return [found[name] for name in sorted(found)]


def _is_file(path: Path) -> bool:
    try:
        # A link to /dev/null masks a unit.
        return path.is_file()
    except OSError:
        return False


def _text_of(path: Path, view: ServiceView, *, is_optional: bool = False) -> str | None:
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        if not is_optional:
            view.unseen.append(f"'{path}', which is not there")
        return None
    except OSError as error:
        view.unseen.append(f"'{path}': {error.strerror}")
        return None
    view.looked_at.append(str(path))
    return text


def _settings_of(text: str) -> Iterator[tuple[str, str]]:
    """Yield what stands in the section of the service, see "CONFIGURATION FILE FORMAT" in systemd.syntax(7)."""
    section, before = "", ""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith(("#", ";")) or (not stripped and not before):
            continue
        whole = f"{before} {stripped}".strip()
        if whole.endswith("\\"):
            before = whole[:-1]
            continue
        before = ""
        if whole.startswith("["):
            section = whole
        elif section == "[Service]":
            name, equals, value = whole.partition("=")
            if equals:
                yield name.strip(), value.strip()


def _specified(value: str, instance: str | None, unit: str) -> str:
    """Fill in the specifiers that are of use here."""
    known = {
        "%%": "%",
        "%i": instance or "",
        "%I": instance or "",
        "%n": unit,
        "%N": unit.removesuffix(".service"),
        "%p": "dyrygentd",
    }
    return re.sub(r"%.", lambda found: known.get(found[0], found[0]), value)


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def _variables_of(text: str) -> dict[str, str]:
    """Read an environment file, see ``EnvironmentFile=`` in systemd.exec(5)."""
    found = {}
    for line in text.replace("\\\n", "").splitlines():
        pair = None if line.lstrip().startswith(("#", ";")) else _PAIR.fullmatch(line)
        if pair is not None:
            value = pair[2].strip()
            is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
            found[pair[1]] = value[1:-1] if is_quoted else value
    return found


# --- going on as the service ----------------------------------------------------------------------------------------


def become(view: ServiceView) -> str:
    """Go on as the service's user, in its directory; return why that cannot be, empty if it can."""
    if os.geteuid() != 0 or view.user in ("", "root", "0"):
        _enter(view.directory)
        return ""
    closed = [words for words in warnings() if "may not enter" in words]
    if closed:
        # Python imports some of itself late, which that user could not.
        return f"what user '{view.user}' may do: {closed[0]}"
    try:
        user = pwd.getpwnam(view.user)
    except KeyError:
        return f"what user '{view.user}' may do: there is no such user"
    os.initgroups(view.user, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    _enter(view.directory)
    return ""


def _enter(directory: Path) -> None:
    # As the service's user: apps are imported from there, and root must not import what others have put there.
    with suppress(OSError):
        os.chdir(directory)
