"""Files, run folders and metrics.

Reading order: io, digest, device, metrics, schedules, flags, training_state, finite;
rollout_recorder.

May import: errors.
"""
