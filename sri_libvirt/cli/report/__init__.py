"""The capacity report: what this host is, what it can sell, and in which forms that is shown."""
