"""What every hypervisor must promise, run on the fake here and on libvirt in tests/e2e."""
