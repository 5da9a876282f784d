"""Which probe goes where in a target, and why another one cannot. Pure: reads binaries, touches no kernel."""
