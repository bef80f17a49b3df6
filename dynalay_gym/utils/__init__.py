"""Files, run folders and metrics.

Reading order: io, schema, saved_folder, training_state, run_folder; digest, device,
memory, metrics, schedules, ranges, flags, interrupts, scripts, finite,
rollout_recorder.

May import: errors.
"""
