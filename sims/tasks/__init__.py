"""Samplers: each draws data for a problem of `theory.problems`, every draw from an explicit generator."""
