"""The catalog, the ledger and the sealed values as SQL tables, for any engine SQLAlchemy speaks."""
