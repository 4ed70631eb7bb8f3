"""Loop two: one step is one federated round."""
