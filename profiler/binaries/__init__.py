"""Files of code as they lie on the disk: ELF, DWARF, machine code, the way out of a frame. Nothing runs them."""
