"""The name of a database's ``ENGINE``, as Django wants it; `base` is the backend."""
