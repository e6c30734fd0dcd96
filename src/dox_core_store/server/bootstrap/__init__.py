"""The composition root: settings, adapters, use cases, application. Nothing else names an adapter.

`embedded` makes the adapters of an embedded store, `compose` the use cases and the web over them,
`node` is the life of one server process, `sealing` its time before the store is open, `serving` the
process around it, `local` what commands do on a store without a server.
Names are loaded on first use: a command on the store need not wait for the web to be imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dox_core_store.server.bootstrap.local import LocalStore, init_store, local_caller
    from dox_core_store.server.bootstrap.node import Node
    from dox_core_store.server.bootstrap.serving import run_node

__all__ = ["LocalStore", "Node", "init_store", "local_caller", "run_node"]

_HOMES = {"Node": "node", "run_node": "serving"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'local')}")
    return getattr(home, name)
