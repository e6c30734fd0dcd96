"""A store in PostgreSQL, for as many nodes as there are."""
