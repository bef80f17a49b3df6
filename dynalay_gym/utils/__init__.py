"""Files, run folders and metrics."""
