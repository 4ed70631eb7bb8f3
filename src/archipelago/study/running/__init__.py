"""A study from data to a shipped network."""
