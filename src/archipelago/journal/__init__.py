"""A run's directory: one database, content-addressed blobs, `best/`. Records and bytes only."""
