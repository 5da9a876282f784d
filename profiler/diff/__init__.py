"""What changed between normal runs and a slow one.

side → comparability/, steps/ → rows/ → causes/ → result. `compare.py` is the whole way; `result.py` are the types that
viewers read. A side is one or more recordings; its steps are what is compared (tokens, requests), each with the time of
every group of operators. Waits for resources and variables are compared beside them. Nothing is aligned by time, and
nothing here prints or draws.
"""
