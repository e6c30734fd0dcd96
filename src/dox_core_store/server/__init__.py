"""The server: domain decisions, use cases, adapters, and the web in front of them."""
