"""What is told of machines: plain data for people and scripts, chosen field by field. Read-only.

The command line makes it of the store that it may read; for who may not the daemon does, on its reading socket. How it
is printed does not belong here.
"""
