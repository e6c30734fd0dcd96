"""What fits the client into the frameworks that services are made of; see ``docs/integrations.md``.

One module for each, named as the library that it is for, which is imported in that module only: the
base installation needs none of them. Nothing is imported here.
"""
