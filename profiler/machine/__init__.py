"""The machine that records or was recorded: kernel, processors, rights, ceilings."""
