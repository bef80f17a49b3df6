"""Files, run folders and metrics.

May import: errors.
"""
