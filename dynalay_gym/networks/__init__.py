"""Main networks, the agent's network, and their checkpoints."""
