"""Recipes: all settings of a training, from which `sims.trained` makes the weights of any seed at any step."""
