"""Phases, and the rows that their change consists of: aligned, tested, and what is known of each."""
