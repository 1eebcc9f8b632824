"""Secrets in every form that a text may have them in, wherever it was cut, and however often it was put into JSON."""

import json
from collections.abc import Iterator

import pytest

from dyrygentd.scheduler.secrets import hide_secrets

_NAMES = ["password", "db_password", "API_KEY", "apiKey", "client-token", "accessToken", "PASSWORD2", "private_key", "X-Api-Key"]
_SECRET = "S3curXyz"
#: What stands around it, and what a reader of quotes, brackets and separators could stumble over.
_AROUND = [
    "{}",
    "p,w;{}",
    "it's {}",
    'say "{}"',
    "back\\{}",
    "two {} words",
    "{{{}}}",
    "a=b&c={}",
    "[{}]",
    "({}",
    "{})",
    '\\"{}',
    "x\n{}",
]


def _quoted(name: str, secret: str) -> Iterator[str]:
    yield repr({name: secret, "user": "anna"})
    yield json.dumps({name: secret, "user": "anna"})
    yield json.dumps({name: secret, "user": "anna"}, indent=2)
    yield repr({"settings": {name: {"value": secret}}})
    yield repr(["prog", f"--{name}", secret, "x"])
    yield repr((name, secret))
    yield repr([(name, secret), ("a", "b")])
    yield repr({"name": name, "value": secret})
    yield f"Config({name}={secret!r}, host='h')"
    yield f"{name}={secret.encode()!r}"
    yield f"{name}=SecretStr({secret!r}) x"
    yield f"{name}={[secret, secret]!r}"
    yield f"{name} => {secret!r}"
    yield f"{name} = {secret!r}"
    yield f"environ[{name!r}] = {secret!r}"
    yield f"{name}: str = {secret!r}"


def _bare(name: str, secret: str) -> Iterator[str]:
    yield f"prog --{name} {secret} --other x"
    yield f"prog --{name}={secret} --other x"
    yield f"{name}: {secret}"
    yield f"https://h/p?{name}={secret}&b=c"
    yield f"https://{secret}@h/p"
    yield f"amqp://user:{secret}@h/p"


@pytest.mark.parametrize("name", _NAMES)
def test_no_part_of_a_secret_is_shown(name: str) -> None:
    """Cut anywhere, it is hidden to the end; as JSON in JSON in JSON it is found as well."""
    texts = [text for around in _AROUND for text in _quoted(name, around.format(_SECRET))]
    texts += _bare(name, _SECRET)
    for text in texts:
        wrapped = json.dumps({"message": text})
        beginnings = [text[:length] for length in range(1, len(text))] if text.isascii() else []
        for shown in (text, wrapped, json.dumps({"message": wrapped}), *beginnings):
            if shown.startswith("https://S") and "@" not in shown:
                continue  # Without its end it is a host.
            assert "S3c" not in hide_secrets(shown), shown


def test_what_is_beside_a_secret_stays() -> None:
    """Whoever reads it at night needs the rest."""
    for name in _NAMES:
        for around in _AROUND:
            secret = around.format(_SECRET)
            assert hide_secrets(repr({name: secret, "user": "anna"})).endswith("'user': 'anna'}")
            assert hide_secrets(f"Config({name}={secret!r}, host='h')").endswith(", host='h')")
            assert hide_secrets(f"{name}=SecretStr({secret!r}) x").endswith(" x")
