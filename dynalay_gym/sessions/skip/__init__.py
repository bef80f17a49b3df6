"""Networks of blocks as sessions: run or skip the next one.

Reading order: decisions, state, blocks, session, gated, wrapped.
"""
