"""Probes: pure functions of captured values."""
