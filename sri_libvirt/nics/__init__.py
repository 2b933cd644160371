"""NIC drivers: data out, no domain XML."""
