"""Interventions: pure functions that give new weights and leave the old ones as they were."""
