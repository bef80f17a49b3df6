"""Files, run folders and metrics.

Reading order: io, digest, metrics, schedules, device, flags, training_state; rollout_recorder.

May import: errors.
"""
