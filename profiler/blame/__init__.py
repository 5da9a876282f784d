"""Who holds an application's resources, who waits for them, and why: pure analysis of resource events (numpy).

events → holds, waits (pairing) → metrics, moments in which somebody waits (occupancy) → pathologies → chains.
Model and pathologies: gigiProfiler (arXiv 2507.06452); waker graph: wPerf (OSDI'18).
"""
