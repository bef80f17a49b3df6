"""A main network and a policy as one classifier that skips."""
