"""Writes ``docs/errors.md`` from `dox_core_store.errors.CODES`, the only list of codes.

``--check`` writes nothing and fails if the committed page is not what would be written.
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from dox_core_store.errors import CODES, Code

__all__ = ["PAGE", "render"]

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"

HEAD = """\
# Errors

Every error has a stable `code`: match on it, never on the text. Over HTTP it is a member of the
problem document (RFC 9457), whose `type` leads to the section here; in Python it is `error.code`,
and the class in the heading of a group is what to catch. Codes are added, never renamed.

`error.detail` says what was wrong this time; the sentences below say what to do about it. No
message contains a key's value or a token.

<!-- Written by `make docs` from CODES in src/dox_core_store/errors.py. -->
"""


def render() -> str:
    """The page as it should be."""
    parts = [HEAD]
    for kind, codes in groupby(CODES.items(), key=lambda item: item[1].error):
        status = f"HTTP {kind.status}" if kind.status else "no HTTP status"
        parts.append(f"\n## {kind.__name__}: {status}\n\n{(kind.__doc__ or '').strip()}\n")
        parts.extend(_section(name, code) for name, code in codes)
    return "".join(parts)


def _section(name: str, code: Code) -> str:
    return f"\n### {name}\n\n{code.title}. {code.remedy}\n"


def main() -> int:
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(render(), encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == render():
        return 0
    print(f"{PAGE.name} does not say what errors.py says: run `make docs`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
