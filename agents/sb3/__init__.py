"""PPO, A2C and DQN of Stable-Baselines3."""
