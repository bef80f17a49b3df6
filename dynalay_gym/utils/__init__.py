"""Files, run folders and metrics.

Reading order: io, digest, device, memory, metrics, schedules, ranges, flags,
training_state; rollout_recorder.

May import: errors.
"""
