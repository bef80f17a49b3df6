"""Files, run folders and metrics.

Reading order: io, digest, device, flags, metrics, run_folder, interrupts, scripts;
schedules, training_state; rollout_recorder.

May import: errors.
"""
