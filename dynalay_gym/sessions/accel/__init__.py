"""The optional compiled session of a main network."""
