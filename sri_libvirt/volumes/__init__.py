"""Volume drivers: data out, no domain XML."""
