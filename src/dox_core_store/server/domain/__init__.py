"""Pure decisions as tables. Nothing here does I/O, reads a clock or knows a framework."""
