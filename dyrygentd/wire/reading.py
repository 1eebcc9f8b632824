"""From the bytes of a definition to its document: in bounds, some nodes at a time, with the parameters put in.

One call that decodes a whole document holds the interpreter's lock, and with it the loop; and an error that is found at its end
lets go of millions of objects at once. So what is long is counted first (`dyrygentd.wire.bounds`), its nodes are cut apart and
left as text, and then decoded in slices. Parameters are put into one node after the other, and only where one is named.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct

from dyrygentd.core.parameters import EXPANSION_MAX, Parameter, declared, filling_of
from dyrygentd.core.parent import DEPTH_MAX
from dyrygentd.errors import BadRequest, TooManyNodes
from dyrygentd.wire import bounds
from dyrygentd.wire.bounds import Look
from dyrygentd.wire.encoding import decode, decode_any, encode
from dyrygentd.wire.mistakes import explained

#: What takes some milliseconds to decode.
_SLICED_BYTES: Final = 500_000
_SLICE: Final = 500
_SLICE_BYTES: Final = 512 * 1024
#: Names in `after` beyond which equal ones become one object; a few do not matter.
_FEW: Final = 8
#: Nodes between two looks.
LOOK_EVERY: Final = 500
_IN_SLICE: Final = re.compile(r"\$\[(\d+)\](.*)")


class Growth:
    """How much longer definitions become by their parameters. Guards: all that are in one document have one bound together."""

    def __init__(self) -> None:
        self._left = EXPANSION_MAX

    def __repr__(self) -> str:
        return f"<Growth left={self._left}>"

    def with_more(self, count: int) -> "Growth":
        """Count so many bytes more. Raises `BadRequest`."""
        self._left -= max(count, 0)
        if self._left < 0:
            raise BadRequest(
                f"with their parameters put in, the workflows in it have more than {EXPANSION_MAX} bytes",
                path="$.definition",
                next_step="pass a reference to long data instead of the data",
            )
        return self


class DocumentReader:
    """Reads documents of one form.

    Args:
        form: Of the whole, with ``nodes``, ``parameters`` and ``values``.
        node_form: Of one node, with ``after``.
        sliced_bytes: Bodies that are longer are decoded so many nodes, or bytes of them, at a time.
    """

    def __init__(self, form: type[Struct], node_form: type[Struct], *, sliced_bytes: int = _SLICED_BYTES) -> None:
        self._form = form
        self._sliced_bytes = sliced_bytes
        self._nodes_form: Any = list[node_form]  # type: ignore[valid-type]
        self._sliced: Any = _like(form, nodes=list[Raw])
        self._raw: Any = msgspec.defstruct(
            form.__name__,
            [
                (field.name, Raw) if field.required else (field.name, Raw | msgspec.UnsetType, UNSET)
                for field in msgspec.structs.fields(form)
            ],
            forbid_unknown_fields=True,
        )

    def read(self, body: bytes, *, nodes_max: int, node_bytes_max: int, look: Look) -> tuple[bytes, Any]:
        """Return a document as it is to be stored, with its parameters put in, and decoded.

        Raises:
            BadRequest, TooManyNodes
        """
        filled = self._with_parameters(body, nodes_max, node_bytes_max, look)
        document = self._decoded(filled, nodes_max, node_bytes_max, look)
        if document.parameters is not None or document.values is not None:
            # They are looked for in the bytes, so that documents without them are read once only.
            raise BadRequest("`parameters` and `values` must be written without escapes in their names", path="$.parameters")
        return filled, document

    def parameters_of(self, body: bytes) -> list[Parameter]:
        """Return the parameters that a document declares. Raises `BadRequest`."""
        document = decode_any(body, Any)
        return declared(document) if isinstance(document, dict) else []

    def _decoded(self, body: bytes, nodes_max: int, node_bytes_max: int, look: Look) -> Any:
        if len(body) <= self._sliced_bytes:
            return self._decoded_as(self._form, body)
        self._check(body, nodes_max, node_bytes_max, look)
        sliced = self._decoded_as(self._sliced, body)
        look()
        nodes: list[Any] = []
        names: dict[str, str] = {}
        edges = 0
        for start, raw in _slices(sliced.nodes):
            look()
            if len(raw) == 1 and len(raw[0]) > _SLICE_BYTES:
                bounds.check_long_node(bytes(raw[0]), start, nodes_max, look)
            try:
                decoded = decode_any(b"[" + b",".join(raw) + b"]", self._nodes_form)
            except BadRequest as error:
                raise self._in_the_whole(error, raw, start) from None
            counts = [len(node.after) for node in decoded]
            edges += sum(counts)
            if max(counts) > _FEW:
                for node in decoded:
                    if len(node.after) > _FEW:
                        node.after = list(dict.fromkeys(names.setdefault(name, name) for name in node.after))
            if edges > bounds.EDGES_MAX and node_bytes_max:
                raise BadRequest(
                    f"`after` names more than {bounds.EDGES_MAX} nodes in all, at $.nodes",
                    path="$.nodes",
                    next_step="let a join wait for the many, and the others for the join",
                )
            nodes += decoded
        rest = {name: getattr(sliced, name) for name in self._sliced.__struct_fields__ if name != "nodes"}
        return self._form(nodes=nodes, **rest)

    def _check(self, body: bytes, nodes_max: int, node_bytes_max: int, look: Look) -> None:
        if not node_bytes_max:
            return
        long = dict.fromkeys(("payload", "parameters", "values"), node_bytes_max)
        try:
            bounds.check_counts(body, {"nodes": nodes_max}, long, look)
        except bounds.TooMany:
            raise TooManyNodes(nodes_max + 1, nodes_max, is_counted=False) from None

    def _decoded_as(self, form: Any, body: bytes) -> Any:
        try:
            return decode(body, form)
        except BadRequest as error:
            raise explained(error, self._form, body if len(body) <= self._sliced_bytes else b"") from None

    def _in_the_whole(self, error: BadRequest, raw: Sequence[Raw], start: int) -> BadRequest:
        """Return an error in a slice as one in the whole document, without reading that again."""
        found = _IN_SLICE.match(error.path)
        if found is None:
            return error
        path = f"$.nodes[{start + int(found[1])}]{found[2]}"
        message = error.message.removesuffix(error.path) + path
        return explained(BadRequest(message, path=path), self._form, node=bytes(raw[int(found[1])]))

    # --- parameters -------------------------------------------------------------------------------------------------

    def _with_parameters(self, body: bytes, nodes_max: int, node_bytes_max: int, look: Look) -> bytes:
        if b'"parameters"' not in body and b'"values"' not in body:
            return body
        if len(body) > self._sliced_bytes:
            self._check(body, nodes_max, node_bytes_max, look)
        try:
            given = decode(body, self._raw)
        except BadRequest:
            # Told in full by who decodes it, or the words stood in an argument of a document of another shape.
            return body
        # The words may have stood in an argument.
        if given.parameters is UNSET and given.values is UNSET:
            return body
        fields = {name: getattr(given, name) for name in self._raw.__struct_fields__}
        written = {name: bytes(text) for name, text in fields.items() if text is not UNSET}
        return _filled(written, node_bytes_max, look)


def _filled(written: Mapping[str, bytes], node_bytes_max: int, look: Look) -> bytes:
    """Put the parameters into a document; what names none is left as it was written."""
    for field in ("parameters", "values", "payload"):
        if field in written:
            bounds.check_data("", {field: written[field]}, node_bytes_max or len(written[field]))
    filling = filling_of({name: decode_any(written[name], Any) for name in ("parameters", "values") if name in written})
    parts: list[bytes] = []

    def fill(text: bytes, path: tuple[str | int, ...]) -> bytes:
        if b"$" not in text and b"\\" not in text:
            return text
        if node_bytes_max and len(text) > node_bytes_max + bounds.OPTIONS_BYTES_MAX:
            where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
            raise BadRequest(
                f"what is at ${where} has {len(text)} bytes, too many to put parameters into",
                path=f"${where}",
                next_step="pass a reference to long data instead of the data",
            )
        filled = filling.fill(decode_any(text, Any), path)
        try:
            return encode(filled)
        except (RecursionError, ValueError) as error:
            raise BadRequest(f"the definition cannot be written with its parameters: {error}", path="$") from error

    for field, text in written.items():
        if field in ("parameters", "values"):
            continue
        if field == "nodes" and text.lstrip().startswith(b"["):
            nodes = []
            for number, node in enumerate(decode_any(text, list[Raw])):
                if not number % LOOK_EVERY:
                    look()
                nodes.append(_fill_around(bytes(node), partial(fill, path=("nodes", number))))
            text = b"[" + b",".join(nodes) + b"]"
        else:
            text = fill(text, (field,))
        parts.append(b'"%b":%b' % (field.encode(), text))
    return b"{" + b",".join(parts) + b"}"


def _fill_around(node: bytes, fill: Callable[[bytes], bytes]) -> bytes:
    """Put parameters into a node, but not into the definition of its workflow, whose references are its own."""
    if b'"workflow"' not in node:
        return fill(node)
    definitions: list[Raw] = []

    def take_out(definition: Raw) -> Raw:
        definitions.append(definition)
        return Raw(b"%d" % (len(definitions) - 1))

    try:
        around = _with_definitions(node, take_out)
    except (msgspec.MsgspecError, KeyError, RecursionError):
        # Told by who decodes it, or the word stood in an argument.
        return fill(node)
    return _with_definitions(fill(around), lambda number: definitions[int(bytes(number))])


def _with_definitions(node: bytes, change: Callable[[Raw], Raw], levels: int = DEPTH_MAX) -> bytes:
    """Change the definitions of workflows that do the work of a node, or of what a map in it does with each item."""
    if levels < 0:
        # It is refused for that by who decodes it. Each level costs the length of all that is inside.
        raise KeyError("map")
    fields = msgspec.json.decode(node, type=dict[str, Raw])
    if "workflow" in fields:
        inner = msgspec.json.decode(fields["workflow"], type=dict[str, Raw])
        fields["workflow"] = Raw(encode(inner | {"definition": change(inner["definition"])}))
    if "map" in fields:
        each = msgspec.json.decode(fields["map"], type=dict[str, Raw])
        do = msgspec.json.decode(each["do"], type=dict[str, Raw])
        if "nodes" in do:
            nodes = msgspec.json.decode(do["nodes"], type=list[Raw])
            do["nodes"] = Raw(encode([Raw(_with_definitions(bytes(one), change, levels - 1)) for one in nodes]))
            each["do"] = Raw(encode(do))
        else:
            each["do"] = Raw(_with_definitions(bytes(each["do"]), change, levels - 1))
        fields["map"] = Raw(encode(each))
    return encode(fields)


def _slices(nodes: Sequence[Raw]) -> "list[tuple[int, Sequence[Raw]]]":
    """Cut nodes into slices that are not too long, unless it is a single one: ``[(number of the first, nodes)]``."""
    slices: list[tuple[int, Sequence[Raw]]] = []
    start = 0
    while start < len(nodes):
        end, size = start, 0
        # Nearly always so many are short enough together.
        for length in map(len, nodes[start : start + _SLICE]):
            size += length
            if size > _SLICE_BYTES and end > start:
                break
            end += 1
        slices.append((start, nodes[start:end]))
        start = end
    return slices


def _like(form: type[Struct], **types: Any) -> Any:
    """Return the same form with other types of some of its fields."""
    return msgspec.defstruct(
        form.__name__,
        [
            (field.name, types.get(field.name, field.type), *([] if field.required else [field.default]))
            if field.default_factory is msgspec.NODEFAULT
            else (field.name, field.type, msgspec.field(default_factory=field.default_factory))
            for field in msgspec.structs.fields(form)
        ],
        forbid_unknown_fields=True,
    )
