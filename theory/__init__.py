"""Predictions: what mathematics says a transformer's memory and reasoning should do.

This package needs numpy, scipy and sympy only. It never imports torch, matplotlib or `sims`, so that agreement with a
simulation is evidence and not shared code.
"""

__all__: list[str] = []
