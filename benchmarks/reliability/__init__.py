"""What is lost when a run is killed, and what is let in from a file: nothing.

Reading order: kill_and_resume, kill_while_saving; folders, variant,
file_variants, weight_variants, value_variants, variants, workers, hostile_files.
"""
