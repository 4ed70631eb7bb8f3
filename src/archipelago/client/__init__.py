"""Local work: what a client does with its own rows and its own seed."""
