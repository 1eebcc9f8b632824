"""Values of tasks: JSON in kombu's dialect, in which dates, decimals, UUIDs and bytes have forms of their own."""

import json

from dyrygentd.errors import BadRequest


def decoded_value(json_text: bytes) -> object:
    """Turn JSON text into a value; what has no types of kombu's needs no kombu. Raises `BadRequest` if it cannot be read."""
    try:
        if b'"__type__"' not in json_text:
            return json.loads(json_text)
        from kombu.utils import json as kombu_json

        return kombu_json.loads(json_text)
    # A decoder is called with whatever the text holds, and users register decoders of their own.
    except Exception as error:
        raise BadRequest(f"the value is not valid JSON: {error}") from error
