"""An operator's work, its least time on a machine, and what bounds it. Pure."""
