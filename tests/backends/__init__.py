"""Real storage for tests: Ceph, iSCSI targets, NBD servers and loop devices, started by the tests themselves.

Each is a few processes of its own on a loopback address of its own, needs no systemd and no setting of the host, ends
with the test process, and can be frozen, killed and brought back on the same address. Each takes `inside`, which makes
of an argument list the one that runs in a namespace (`PrivateLibvirt.inside`), where QEMU has a loopback of its own.
What a test does with a backend does not belong here.
"""
