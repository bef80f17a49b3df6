"""What is lost when a run is killed: nothing.

Reading order: kill_and_resume.
"""
