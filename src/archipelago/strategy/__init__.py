"""How the next architecture is chosen: one method, one paper, one file. No torch on import."""
