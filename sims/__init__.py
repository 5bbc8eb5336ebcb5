"""Measurements: train and run models, and compare them with what `theory` predicts."""
