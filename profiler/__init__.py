"""Discover a target, plan its probes, record, store and analyse: everything between the kernel and the viewers."""

__version__ = "0.1.0"
