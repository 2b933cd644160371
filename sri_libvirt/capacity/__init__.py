"""What a machine class is, and how many machines of it a host can hold. Pure, except for reading a class file."""
