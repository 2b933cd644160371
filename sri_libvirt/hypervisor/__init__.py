"""The only importer of libvirt, behind a protocol in our words."""
