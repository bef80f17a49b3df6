"""The selectable layers of main networks: what they share, and each form.

Reading order: config, norm, base, conv, planner, reading, word_head,
token_solve, attention_map, attention, encoder.
"""
