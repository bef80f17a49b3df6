"""The main network as a Gymnasium environment; knows nothing of agents."""
