"""What the analyzers hand to the viewers: frozen dataclasses, nothing else. Units are in the field names.

A file per analyzer, of its name (layers and blocks share groups.py); outcome.py, coverage.py and bound.py are what
several of them use. Viewers import sections, never analyzers.

Operator-level figures are measured on the graph executions that lay wholly inside op or thread windows and scaled to
the whole recording, phase by phase; `Coverage` says from how much. An analyzer that lacks its input, or fails, yields
an `Outcome` that says so instead of a value.
"""
