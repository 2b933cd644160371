"""The SQLite store: what should be, what was chosen, what happened. No policy."""
