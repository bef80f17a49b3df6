"""What every part of the package and the scripts use.

Reading order: device, memory, flags, ranges; interrupts, scripts, processes; schedules,
ranks, finite, rollout_recorder.

May import: errors.
"""
