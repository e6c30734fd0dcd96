"""`make bench`: this store, OpenBao and bare Granian under the same load, in one run.

Start it as ``benchmarks/run.py``, or as ``python -m benchmarks`` from the repository root. What is
required stands in `report`; what was measured stands in ``RESULTS.md``.

::

    __main__    the order of things (run starts it by path)
    workload    the 1,000 keys, the 100 services, the requests that read them
    doxstore    this store as a process, filled over its HTTP API
    openbao     the peer as a process, filled over its HTTP API
    bare        the ceiling: the same HTTP server, an application that does nothing (bare_app)
    process     a child that never outlives the bench
    load        wrk, driven by cycle.lua
    cached_get  the client's cache, timed in a process of its own
    machine     the machine in words
    report      requirements, the table, RESULTS.md
"""
