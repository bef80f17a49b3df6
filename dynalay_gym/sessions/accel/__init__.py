"""The optional compiled session of a main network.

Reading order: session, pack, network, iteration, maps, vectors; compiler.
"""
