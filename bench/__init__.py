"""How fast the provider is: `make bench`. Every figure stands beside its alternative, measured in the same run.

Correctness does not belong here: that is what `tests/` proves.
"""
