"""Where the ledger's checkpoints and changes are shipped to, one module for each kind."""
