"""The straight line: data, search, final training, one test, a network to ship, a report."""
