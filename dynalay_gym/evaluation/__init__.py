"""Comparing policies: evaluation, reference policies, intervals and reports."""
