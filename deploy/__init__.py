"""What runs sri-libvirt: the demo, and what an operator installs beside it."""
