"""A network run as a state machine: the protocol and its implementations."""
