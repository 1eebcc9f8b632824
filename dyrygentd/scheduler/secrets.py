"""What secrets look like in texts: passwords of URLs, and values that stand beside a name such as ``password`` or ``token``.

Theory of operation
===================
*The idea.* A text is gone through once. Where a name of a secret is found, what follows is read as whoever wrote it may have
meant it: ``name=value``, ``'name': value``, ``name => value``, ``--name value``, ``('name', 'value')``, ``Name: value``. The
value is a text in quotes, what stands in brackets, or one piece without either; it becomes ``****``.

*The rules.* What has no end is hidden to the end of the text: it may have been cut there. What is read is not read again, or at
most so many characters of it, so that hostile texts cost no more than others. In doubt it is hidden, with one exception:
``token: signature has expired`` only speaks about a secret, and is what somebody has to read at night.

*Tried and rejected.* Regular expressions for the whole: a value in quotes needs its closing quote there, brackets cannot be
counted, and each bound that keeps them from going back and forth lets through what is longer.
"""

import re
from typing import Final

HIDDEN: Final = "****"

#: What secrets are called, as the end of a name; a number may follow.
_WORDS: Final = (
    r"(?:(?:secret|api|access|private|auth|encryption|signing)[_-]?keys?"
    r"|passwords?|passwd|passphrases?|pwd|secrets?|tokens?|credentials?|authorization|cookies?)(?:[_-]?\d{1,3})?"
)
CALLED_SECRET: Final = re.compile(rf"(?i){_WORDS}$")
#: Where to look more closely. A JWT and a key in PEM tell what they are; so does what follows ``Bearer``.
_PLACE: Final = re.compile(
    rf"(?i)(?P<url>://)|(?P<name>{_WORDS})(?![A-Za-z0-9])|\b(?P<bearer>bearer)[ \t]{{1,9}}(?=[\w.~+/=-]{{6}})"
    r"|(?P<pem>-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----)|(?<![\w-])(?P<jwt>eyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*)"
)
_QUOTE_AFTER_NAME: Final = re.compile(r"\\{0,8}['\"]\]?")
_SEPARATOR: Final = re.compile(r"\s{0,9}(?:=>|:=|==?|->)\s{0,9}|:\s{0,3}[\w.\[\]|]{1,40}\s{0,3}=(?!=)\s{0,9}")
_COLON: Final = re.compile(r"[ \t]{0,9}:(?!:)[ \t]{0,9}")
_COLON_AFTER_QUOTE: Final = re.compile(r"\s{0,9}:\s{0,9}")
_COMMA: Final = re.compile(r"\s{0,9},\s{0,9}")
_BLANKS: Final = re.compile(r"\s{1,9}(?!-)")
#: ``('name': 'PASSWORD', 'value': 'x')`` has a word between the name and the value.
_FURTHER_NAME: Final = re.compile(r"\\{0,8}['\"][\w-]{1,30}\\{0,8}['\"]\s{0,9}(?::|=>)\s{0,9}")
_OPENING_QUOTE: Final = re.compile(r"[bBuUrRfF]{0,2}(\\{0,8})('''|\"\"\"|['\"])")
_OPENING_BRACKET: Final = re.compile(r"(?:[A-Za-z_][\w.]{0,80})?[(\[{<]")
_BRACKETS_AND_QUOTES: Final = re.compile(r"\\+['\"]?|['\"()\[\]{}<>]")
_END_OF_PIECE: Final = re.compile(r"[\s'\"&)\]}]|\\['\"]|[,;](?=\s|$|['\"\\]|[\w.-]{1,50}\s?[=:])")
_PROSE: Final = re.compile(r"[A-Za-z][a-z]{0,25} {1,3}[a-z]{2,25}\b")
_SCHEME: Final = re.compile(r"[A-Za-z][\w-]{1,24}[ \t]{1,9}(?=\S)")
_END_OF_HEADER: Final = re.compile(r"['\"\r\n]")
_END_OF_URL: Final = re.compile(r"[\s'\"]")
_USER: Final = re.compile(r"[^/\s:@'\"?#]{0,200}")
_NO_PORT: Final = re.compile(r"\d{0,5}[^\d/?#\s]")
_PORT: Final = re.compile(r"\d+/")
_SCHEME_OF_URL: Final = re.compile(r"[a-z+.-]{0,12}http[a-z+.-]{0,8}$", re.I)


def hide_secrets(text: str) -> str:
    """Return a text in which ``****`` stands for what looks like a secret. The time is linear in its length."""
    parts: list[str] = []
    done = at = 0
    # Of the URL that is gone through now: where it ends, and its last ``@``.
    url_end = url_at = -1
    while (place := _PLACE.search(text, at)) is not None:
        at = place.end()
        if place["url"]:
            if at > url_end:
                found_end = _END_OF_URL.search(text, at)
                url_end = len(text) if found_end is None else found_end.start()
                url_at = text.rfind("@", at, url_end)
            hidden = _of_url(text, place.start(), at, url_at, url_end)
        elif place["name"]:
            hidden = _of_name(text, place.start(), at)
        elif place["pem"]:
            end = text.find("-----END", at)
            hidden = (at, len(text) if end < 0 else end)
        elif place["jwt"]:
            hidden = (place.start(), at)
        else:
            hidden = _piece(text, at)
        if hidden is not None and hidden[1] > hidden[0]:
            parts += text[done : hidden[0]], HIDDEN
            done = at = hidden[1]
    return "".join([*parts, text[done:]]) if parts else text


def _of_url(text: str, begin: int, at: int, last_at: int, end: int) -> tuple[int, int] | None:
    """Return where the password of a URL stands; with HTTP a user alone is a token."""
    user = _USER.match(text, at)
    assert user is not None
    if last_at < at:
        # It may have been cut before the host; what is no number is no port.
        is_cut = end == len(text) and text[user.end() : user.end() + 1] == ":" and _NO_PORT.match(text, user.end() + 1)
        return (user.end() + 1, end) if is_cut else None
    if text[user.end() : user.end() + 1] == "@":
        is_token = _SCHEME_OF_URL.search(text, max(0, begin - 20), begin) is not None
        return (at, user.end()) if is_token else None
    if text[user.end() : user.end() + 1] != ":":
        return None
    password = user.end() + 1
    return None if _PORT.match(text, password) else (password, last_at)


def _of_name(text: str, begin: int, at: int) -> tuple[int, int] | None:
    """Return where the value of a name stands, None if there is none."""
    name = text[begin:at].lower()
    quote = _QUOTE_AFTER_NAME.match(text, at)
    if quote is not None:
        value = _SEPARATOR.match(text, quote.end()) or _COLON_AFTER_QUOTE.match(text, quote.end())
        if value is not None:
            return _value(text, value.end())
        comma = _COMMA.match(text, quote.end())
        if comma is None:
            return None
        further = _FURTHER_NAME.match(text, comma.end())
        return _value(text, comma.end() if further is None else further.end())
    separator = _SEPARATOR.match(text, at)
    if separator is not None:
        return _header(text, separator.end()) if name.startswith(_HEADERS) else _value(text, separator.end())
    colon = _COLON.match(text, at)
    if colon is not None:
        if name.startswith(_HEADERS):
            return _header(text, colon.end())
        return None if _is_prose(text, colon.end()) and not name.startswith("pass") else _value(text, colon.end())
    if _is_flag(text, begin):
        blanks = _BLANKS.match(text, at)
        return None if blanks is None else _value(text, blanks.end())
    return None


_HEADERS: Final = ("authorization", "cookie")


def _header(text: str, at: int) -> tuple[int, int]:
    """Return where the secret of a header stands: all of its line, but for the scheme."""
    if _OPENING_QUOTE.match(text, at) or _OPENING_BRACKET.match(text, at):
        return _value(text, at)
    end = _END_OF_HEADER.search(text, at)
    scheme = _SCHEME.match(text, at, len(text) if end is None else end.start())
    return (at if scheme is None else scheme.end()), (len(text) if end is None else end.start())


def _is_prose(text: str, at: int) -> bool:
    return _PROSE.match(text, at) is not None


def _is_flag(text: str, begin: int) -> bool:
    """Tell whether a name is the end of an option, as in ``--user-token``."""
    word = text[max(0, begin - 60) : begin]
    return re.search(r"(?:^|[^\w-])--?[\w-]*$", word) is not None


def _value(text: str, at: int) -> tuple[int, int]:
    """Return where a value begins and ends, without its quotes."""
    quote = _OPENING_QUOTE.match(text, at)
    if quote is not None:
        return quote.end(), _end_of_quoted(text, quote.end(), quote[2], len(quote[1]))
    bracket = _OPENING_BRACKET.match(text, at)
    return _piece(text, at) if bracket is None else (at, _end_of_brackets(text, bracket.end()))


def _end_of_quoted(text: str, at: int, quote: str, depth: int) -> int:
    """Return where a text in quotes ends, the end of all if it does not; ``depth`` backslashes stand before each quote."""
    while (end := text.find(quote, at)) >= 0:
        first = end
        while first > at and text[first - 1] == "\\":
            first -= 1
        backslashes = end - first
        if (backslashes <= depth) if depth else (backslashes % 2 == 0):
            return first if depth else end
        at = end + 1
    return len(text)


def _end_of_brackets(text: str, at: int) -> int:
    """Return where brackets end, behind the last one; what stands in quotes does not count."""
    depth = 1
    quote = ""
    for found in _BRACKETS_AND_QUOTES.finditer(text, at):
        sign = found[0]
        if sign[-1] in "'\"":
            # Behind a backslash a quote ends nothing in a text of its own, and is one itself in a text in quotes.
            if not quote:
                quote = sign
            elif sign == quote or (len(sign) < len(quote) and sign[-1] == quote[-1]):
                quote = ""
        elif quote or sign[0] == "\\":
            continue
        else:
            depth += 1 if sign in "([{<" else -1
            if depth == 0:
                return found.end()
    return len(text)


def _piece(text: str, at: int) -> tuple[int, int]:
    end = _END_OF_PIECE.search(text, at)
    return at, len(text) if end is None else end.start()
