"""The selectable layers of main networks: what they share, and each form.

Reading order: config, norm, base, conv, planner, reading, word_head.
"""
