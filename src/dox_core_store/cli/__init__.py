"""`doxstore`, the command line. See ``docs/cli.md``; exit codes are in ``output.py``.

Only this module is loaded without the ``cli`` extra: it says what is missing.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> int:
    """The program's entry point; returns its exit code."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
        import yaml  # noqa: F401
    except ImportError as error:
        sys.stderr.write(
            f"error[bad_setting]: doxstore needs {error.name}, which is not installed.\n"
            "Install it with: pip install 'dox-core-store[cli]'\n"
        )
        return 78
    from dox_core_store.cli.application import run

    return run(sys.argv[1:])
