"""Loop one: ask, step, commit, tell."""
