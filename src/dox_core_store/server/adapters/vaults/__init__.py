"""Vaults that are not ours and hold the values of keys: OpenBao, HashiCorp Vault, AWS."""
