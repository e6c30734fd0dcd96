"""Slots: independent ways to the root key, any one of which opens it."""
