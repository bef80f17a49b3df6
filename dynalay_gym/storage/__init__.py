"""Files: written whole or not at all, and read as what they are declared to be.

Reading order: io, schema, digest, saved_folder, training_state.

May import: errors.
"""
