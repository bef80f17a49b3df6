"""What is iterating an encoder layer worth, on texts and on images cut into patches?

Reading order: measures, chains, patches.
"""
