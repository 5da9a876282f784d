"""Programs in the kernel: compiled, loaded, attached, and their rings read."""
