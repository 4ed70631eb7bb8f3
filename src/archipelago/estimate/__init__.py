"""How a proposal gets its score: plans over the federated round."""
