"""A whole study as one frozen value, and TOML as its other spelling."""
