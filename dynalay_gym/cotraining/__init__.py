"""A main network that learns beside an agent."""
