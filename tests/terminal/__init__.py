"""Clients of console sessions, for tests: written from the protocols, not from our own side of them."""
