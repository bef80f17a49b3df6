"""Files, run folders and metrics.

Reading order: io, digest, metrics, schedules, optimizer_state; rollout_recorder.

May import: errors.
"""
