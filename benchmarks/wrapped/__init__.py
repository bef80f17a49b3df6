"""A torchvision ResNet-18 on CIFAR-10, wrapped: how much of it does an image need?

Reading order: network, train, states, agents, speed.
"""
