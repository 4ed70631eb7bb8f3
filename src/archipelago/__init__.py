"""Federated neural architecture search: the data stay, the architectures travel."""
