"""PPO, A2C and DQN of Stable-Baselines3.

Reading order: agent, state, config.
"""
