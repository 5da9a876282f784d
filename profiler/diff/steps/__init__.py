"""What is compared: the steps of each phase, from every kind of engine's recording (sources.py lists them)."""
