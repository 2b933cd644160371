"""The gRPC side: validate, write what should be, answer. No libvirt call happens in an RPC."""
