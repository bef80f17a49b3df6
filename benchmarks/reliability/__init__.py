"""What is lost when a run is killed, and what is let in from a file: nothing.

Reading order: kill_and_resume, kill_while_saving; folders, variants, workers,
hostile_files.
"""
