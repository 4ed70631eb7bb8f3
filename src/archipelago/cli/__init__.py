"""The command line: the verbs, and the only printing."""
