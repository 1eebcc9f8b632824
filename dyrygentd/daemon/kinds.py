"""Kinds of settings that are more than a number or a word: in TOML a table or a list, in a flag or a variable text."""

import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from dyrygentd.errors import ConfigurationError
from dyrygentd.scheduler.log_links import flaw_of


class Sizes(dict[str, int]):
    """``{name: number}``; as text ``name=number,name=number``."""

    @classmethod
    def read(cls, given: Any) -> "Sizes":
        """Read a table of TOML, or text. Raises `ValueError`."""
        if isinstance(given, str):
            pairs = [_pair(text) for text in given.split(",") if text.strip()]
            twice = [name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number])]
            if twice:
                raise ValueError(f"'{twice[0]}' stands there twice")
            given = dict(pairs)
        if not isinstance(given, dict):
            raise ValueError
        for name, size in given.items():
            if not name or name != name.strip() or "," in name:
                raise ValueError(f"'{name}' is no name")
            if type(size) is not int or size < 1:
                raise ValueError(f"the size of '{name}' is {size!r}")
        return cls(given)

    def __str__(self) -> str:
        return ",".join(f"{name}={size}" for name, size in self.items())


class Names(tuple[str, ...]):
    """Names; as text ``name,name``."""

    __slots__ = ()

    @classmethod
    def read(cls, given: Any) -> "Names":
        """Read a list of TOML, or text. Raises `ValueError`."""
        if isinstance(given, str):
            given = [name.strip() for name in given.split(",") if name.strip()]
        if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
            raise ValueError
        for name in given:
            if not name or name != name.strip() or "," in name:
                raise ValueError(f"'{name}' is no name")
        return cls(given)

    def __str__(self) -> str:
        return ",".join(self)


class Patterns(tuple[str, ...]):
    """Regular expressions; as text one a line, since they may hold any character."""

    __slots__ = ()

    @classmethod
    def read(cls, given: Any) -> "Patterns":
        """Read a list of TOML, or text. Raises `ValueError`."""
        if isinstance(given, str):
            given = [line for line in given.splitlines() if line]
        if not isinstance(given, list | tuple) or not all(isinstance(pattern, str) for pattern in given):
            raise ValueError
        for pattern in given:
            try:
                finds_nothing = re.compile(pattern).search("")
            except re.error as error:
                raise ValueError(f"'{pattern}' is no regular expression: {error}") from None
            if finds_nothing:
                raise ValueError(f"'{pattern}' finds the empty text, so it would be found everywhere")
        return cls(given)

    def __str__(self) -> str:
        return "\n".join(self)


class WebAddress(str):
    """Where a browser finds something; empty if nowhere."""

    __slots__ = ()

    @classmethod
    def read(cls, given: Any) -> "WebAddress":
        """Read text. Raises `ValueError`."""
        # It becomes a link, which with another scheme would run something.
        if not isinstance(given, str) or not re.fullmatch(r"(https?://[\w.\-\[\]:]+(/[!-~]*)?)?", given):
            raise ValueError
        return cls(given.rstrip("/"))


class LogAddresses(dict[str, str]):
    """``{beginning of task names: address}``, see `dyrygentd.scheduler.log_links`.

    As text it is an address, or several lines ``beginning=address``.
    """

    @classmethod
    def read(cls, given: Any) -> "LogAddresses":
        """Read text or a table of TOML. Raises `ValueError`."""
        if isinstance(given, str):
            lines = [line.strip() for line in given.splitlines() if line.strip()]
            # An address may have `=` in it, and no name of a task has a colon.
            given = dict(("", line) if re.match(r"[a-z]+://", line) else line.partition("=")[::2] for line in lines)
        if not isinstance(given, dict) or not all(isinstance(template, str) for template in given.values()):
            raise ValueError
        for beginning, template in given.items():
            if flaw := flaw_of(template):
                raise ValueError(f"'{template:.200}'{f' for {beginning}' if beginning else ''} {flaw}")
        return cls(given)

    def __str__(self) -> str:
        return "\n".join(f"{beginning}={template}" if beginning else template for beginning, template in self.items())


#: ``{type of a setting: what it must be}``.
WORDS: Final = {
    bool: "true or false",
    WebAddress: "an address that begins with http:// or https://",
    LogAddresses: "an address that begins with http:// or https://, or a table of beginnings of task names and addresses",
    Patterns: "a list of regular expressions, or text with one a line",
    Names: "a list of names, or text such as 'anna,@ops'",
    Sizes: "a table of names and sizes of 1 or more, or text such as 'drain@*=2,io=4'",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
}


DATABASE_WORDS: Final = "a path, or postgresql://USER@HOST/NAME"


def _pair(text: str) -> tuple[str, int]:
    name, equals, number = text.rpartition("=")
    if not equals:
        raise ValueError(f"'{text.strip()}' has no size")
    try:
        return name.strip(), int(number)
    except ValueError:
        raise ValueError(f"the size of '{name.strip()}' is '{number.strip()}'") from None


def socket_mode_of(text: str) -> int:
    """Read the permissions of the socket. Raises `ConfigurationError`."""
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise ConfigurationError(f"'socket_mode' is '{text}', it must be octal permissions such as 0660")
    return mode


def masked(url: str) -> str:
    """Hide the passwords of a URL, or of several with semicolons between them, as kombu takes them."""
    return ";".join(map(_masked, re.split(r";(?=[A-Za-z][\w+.-]*://)", url)))


def _masked(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(a URL that cannot be read)"
    if parts.password is None:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":****@")))
