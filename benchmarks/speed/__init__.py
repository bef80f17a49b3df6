"""Speed of the package, against other ways to do the same work."""
