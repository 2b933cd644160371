"""From a machine to its domain XML and back to a read view. No side effects."""
