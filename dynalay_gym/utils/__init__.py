"""Files, run folders and metrics.

Reading order: io, schema, saved_folder, training_state; digest, device, memory,
metrics, schedules, ranges, flags, finite, rollout_recorder.

May import: errors.
"""
