"""The fetcher: a process of its own that asks strangers' servers and handles their bytes."""
