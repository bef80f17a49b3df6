"""The selectable layers of main networks: what they share, and each form.

Reading order: base, norm, conv, planner.
"""
