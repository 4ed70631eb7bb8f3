"""Where tasks run: here, or on every core. Nothing in it knows what a federation is."""
