"""What runs write: files whole or not at all, read as what they are declared to be.

Reading order: io, schema, digest, saved_folder, training_state; run_folder, metrics.

May import: errors, utils.
"""
