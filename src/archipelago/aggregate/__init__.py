"""Combine what clients send: the mean, and the server's optimisers."""
