"""Man pages, from what `--help` shows: click writes its help into a formatter that makes roff of it.

click-man was the alternative. It reads the parameters that a command was declared with, so it would miss the flags of settings;
it leaves out what stands below the options; and it writes the day into each page, so that no two installations are the same.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import click

from dyrygentd import __version__


def pages(programs: Mapping[str, click.Group]) -> dict[str, str]:
    """Return ``{file name: page}`` for programs, which come by their names, and each of their commands."""
    found = {}
    for name, group in programs.items():
        context = _context(group, name)
        children = sorted(group.commands)
        found[f"{name}.1"] = _page(context, see_also=[*(f"{name}-{child}" for child in children), *(programs.keys() - {name})])
        for child in children:
            page = _page(_context(group.commands[child], child, context), see_also=[name])
            found[f"{name}-{child}.1"] = page
    return found


def _context(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    return click.Context(command, info_name=name, parent=parent, help_option_names=["-h", "--help"])


def _page(context: click.Context, *, see_also: Sequence[str]) -> str:
    name = context.command_path.replace(" ", "-")
    summary = context.command.get_short_help_str(limit=1000).rstrip(".")
    formatter = RoffFormatter()
    context.command.format_help(context, formatter)
    references = ", ".join(f"\\fB{escaped(each)}\\fR(1)" for each in see_also)
    head = f'.TH "{escaped(name.upper())}" 1 "" "dyrygentd {__version__}" "dyrygentd"\n.nh\n.SH NAME\n'
    return f"{head}{escaped(name)} \\- {escaped(summary)}\n{formatter.getvalue()}.SH SEE ALSO\n{references}\n"


class RoffFormatter(click.HelpFormatter):
    """Takes what click would print for `--help`, and writes it in man(7)."""

    def __init__(self) -> None:
        # So wide that no summary is cut.
        super().__init__(width=1000)
        self._has_sections = False
        self._is_in_commands = False

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write the synopsis."""
        self.write(f".SH SYNOPSIS\n.B {escaped(prog)}\n{escaped(args)}\n")

    def write_paragraph(self) -> None:
        """Write nothing: what follows begins with a heading."""

    def write_text(self, text: str) -> None:
        """Write what the command is for, or the notes below its options."""
        self.write(".SH NOTES\n" if self._has_sections else ".SH DESCRIPTION\n")
        self.write(paragraphs(text))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write options or commands."""
        for term, meaning in rows:
            self.write(f".TP\n.B {escaped(term)}\n{paragraphs(meaning)}")

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Write a heading; whatever is no option is a group of commands."""
        self._has_sections = True
        if name in ("Options", "Commands"):
            self.write(f".SH {name.upper()}\n")
        else:
            if not self._is_in_commands:
                self.write(".SH COMMANDS\n")
            self.write(f".SS {escaped(name)}\n")
            self._is_in_commands = True
        yield


def paragraphs(text: str) -> str:
    """Return text with empty lines as paragraphs of roff; one that begins with a line ``\\b`` keeps its lines, as in click."""
    found = []
    for paragraph in text.strip("\n").split("\n\n"):
        lines = [escaped(line) for line in paragraph.splitlines() if line != "\b"]
        found.append("\n".join([".nf", *lines, ".fi"] if paragraph.startswith("\b\n") else [" ".join(lines)]))
    return "\n.PP\n".join(found) + "\n"


def escaped(text: str) -> str:
    """Return text that roff shows as it is: no line is a request, and signs that are not ASCII survive every device."""
    plain = (
        text.strip().replace("\\", "\\(rs").replace("-", "\\-").replace("'", "\\(aq").replace("^", "\\(ha").replace("~", "\\(ti")
    )
    plain = plain.replace("`", "\\(ga").replace('"', "\\(dq")
    plain = "".join(sign if sign.isascii() else f"\\[u{ord(sign):04X}]" for sign in plain)
    return f"\\&{plain}" if plain.startswith(".") else plain
