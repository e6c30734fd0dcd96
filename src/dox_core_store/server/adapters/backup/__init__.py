"""Backups: their bytes, the places where they lie, and the database that one becomes again."""
