"""`make bench`: this store, OpenBao and bare Granian under the same load, in one run.

Start it as ``benchmarks/run.py``, or as ``python -m benchmarks`` from the repository root. What is
required stands in `report`; what was measured stands in ``RESULTS.md``.

::

    __main__    the order of things (run starts it by path)
    plan        how long each takes
    side_by_side  the servers in turns
    nodes       several nodes on one PostgreSQL
    fronting    a node in front of OpenBao
    clients     the client's calls beside those of other clients (clients_calls, one process
                each; clients_ways: how each is called; clients_servers: what they talk to)
    clients_push  1,000 connected clients (clients_followers, clients_raw), a rotation, a revocation
    workload    the 1,000 keys, the 100 services, the requests that read them
    doxstore    this store as a process, filled over its HTTP API
    postgres    what it may keep its data in, as a process
    on_record   what its ledger has of the load
    openbao     the peer as a process, filled over its HTTP API
    bare        the ceiling: the same HTTP server, an application that does nothing (bare_app)
    process     a child that never outlives the bench
    load        wrk, driven by cycle.lua
    cached_get  the client's cache, timed in a process of its own
    machine     the machine in words
    report      requirements, the table, RESULTS.md
"""
