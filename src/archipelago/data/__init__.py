"""Silos, partitions, the statistics round, shards and tasks. Free of torch at import."""
