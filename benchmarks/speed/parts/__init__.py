"""One module per part, with ``measure(options)``, which returns tables."""
