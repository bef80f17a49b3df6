"""What speed is held against: the same work as one would write it otherwise."""
