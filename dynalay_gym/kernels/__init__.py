"""A network's arithmetic on a processor, compiled: one row after the other.

A row alone keeps its maps in the nearest cache and leaves a solve the moment it is
done, and nothing depends on the rows beside it.
"""
