"""Fakes of the server's ports, for unit tests here and for authors of adapters.

A fake does what its port's contract promises, in memory, and remembers what it was asked. It never
pretends to be durable: what only real storage can show is tested on real storage.
"""
