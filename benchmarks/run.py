"""``python benchmarks/run.py`` is ``python -m benchmarks``, started from anywhere."""

import runpy
import sys
from pathlib import Path

__all__: list[str] = []

if __name__ == "__main__":
    # Python puts this folder first on the path, where its modules would shadow others' names.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    runpy.run_module("benchmarks", run_name="__main__", alter_sys=True)
