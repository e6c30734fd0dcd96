"""The composition root: settings, adapters, use cases, application. Nothing else names an adapter.

`embedded` makes the adapters of an embedded store, `compose` the use cases and the web over them,
`node` is the life of one server process, `local` what commands do on a store without a server.
"""

from __future__ import annotations

from dox_core_store.server.bootstrap.local import LocalStore, init_store, local_caller
from dox_core_store.server.bootstrap.node import Node, run_node

__all__ = ["LocalStore", "Node", "init_store", "local_caller", "run_node"]
