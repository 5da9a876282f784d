"""Finding the resources that an application manages, offline: from a binary or a source tree to a manifest's draft.

material (`binary.py`, `source.py`) → candidates with their evidence (`candidates.py`) → static checks (`checks.py`) →
perhaps a language model's opinion, checked the same way (`opinion.py`) → TOML (`draft.py`).
"""
