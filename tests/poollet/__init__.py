"""The Go machinepoollet as a Python model: what it asks of a provider, in its order, with its defects.

`api.py` is the user's side (the objects of the API server), `controller.py` the machine controller's reconcile with
the relist that wakes it, `watch.py` what a provider must never let happen to it, `pool.py` its classes and quantities;
`witness.py` lets any other test be watched as it would.
What a provider does inside does not belong here: the model knows the .proto and nothing else.
"""
