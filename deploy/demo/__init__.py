"""The demo: a machine's whole life through the SRI on this host's libvirt, and the proof that nothing is left."""
