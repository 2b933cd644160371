"""Image drivers: data out, no domain XML."""
