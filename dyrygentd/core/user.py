"""Who submits a workflow: a user of the one host that there is, or of one of several that share a store."""

from dataclasses import dataclass, field
from typing import Final

#: A host as it may stand in an identity, and in whatever is put together with one.
HOST_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}"


@dataclass(frozen=True, slots=True)
class User:
    """A user of a host.

    Attributes:
        number: As the kernel of the host has it.
        host: Where the number means this user; empty in a store that one host has for itself.
        name: As the host calls them, for people elsewhere; two that differ in nothing else are the same user.
    """

    number: int
    host: str = ""
    name: str = field(default="", compare=False)

    @property
    def identity(self) -> int | str:
        """Return what tells this user from every other one in the store: the number, or ``number@host``."""
        return f"{self.number}@{self.host}" if self.host else self.number

    @property
    def words(self) -> str:
        """Return how people call this user: ``name@host``."""
        return f"{self.name or self.number}@{self.host}" if self.host else self.name or f"uid {self.number}"

    @classmethod
    def of(cls, identity: "int | str | User | None", name: str = "") -> "User | None":
        """Return the user of an `identity`; None if it is none, so that nobody can tell."""
        if identity is None or isinstance(identity, User):
            return identity
        number, _, host = str(identity).partition("@")
        return cls(int(number), host, name) if number.isascii() and number.isdecimal() else None
