"""Before anything is compared: what is the same on both sides, different, or unknown."""
