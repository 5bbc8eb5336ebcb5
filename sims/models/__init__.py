"""Models, each with a leading axis of seeds: one seed and many run through the same code."""
