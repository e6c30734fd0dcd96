"""In which forms a value turns up in other text, to be looked for there. Pure."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, unquote, urlsplit

__all__ = ["SHORTEST", "forms_of"]

SHORTEST = 4
"""Characters. What is shorter is found in any text."""

_SHORTEST_AMID = 8
"""Characters of base64 without its ends, for the same reason."""

_SHORTEST_LINE = 16
"""Characters of a line that are no coincidence."""

_HEX = re.compile("%[0-9A-F]{2}")


def forms_of(value: str) -> set[str]:
    """``value`` as it is, escaped, quoted and encoded; and parts of it: the password, if it is an
    address with one, for drivers take addresses apart; each longer line, for loggers put something
    before each. None is shorter than `SHORTEST`."""
    parts = {value, value.strip(), _password_in(value)}
    found = {form for each in parts if len(each) >= SHORTEST for form in _forms(each)}
    found |= {line for each in value.splitlines() if len(line := each.strip()) >= _SHORTEST_LINE}
    return {form for form in found if len(form) >= SHORTEST}


def _forms(value: str) -> Iterator[str]:
    yield value
    yield repr(value)[1:-1]
    yield ascii(value)[1:-1]
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    raw = value.encode("utf-8", "surrogatepass")
    for quoted in (quote(raw), quote(raw, safe=""), quote_plus(raw)):
        yield quoted
        yield _HEX.sub(lambda found: found[0].lower(), quoted)
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(raw).decode()
        yield encode(raw).decode().rstrip("=")
        for before in range(3):
            # Amid other bytes, as in "user:password": three bytes are four characters, so there
            # are three ways it may lie; those at the ends that others have a part in are left out.
            after = -(before + len(raw)) % 3
            text = encode(bytes(before) + raw + bytes(after)).decode()
            begin, end = (0, 2, 3)[before], len(text) - (0, 2, 3)[after]
            if end - begin >= _SHORTEST_AMID:
                yield text[begin:end]


def _password_in(address: str) -> str:
    if "://" not in address:
        return ""
    try:
        return unquote(urlsplit(address).password or "")
    except ValueError:
        return ""
