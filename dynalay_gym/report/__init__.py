"""Runs as one HTML page: ``python -m dynalay_gym.report RUN --out report.html``.

Reading order: record (what a run keeps for its report), files, runs (reading it);
words, figures, page; __main__ (the command line).

May import: errors, storage, utils, data, networks, envs, evaluation.
"""
