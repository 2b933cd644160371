"""sri-libvirt: a libvirt/QEMU pool provider for the Spheric Runtime Interface."""

__version__ = "0.1.0"
