"""What keeps a run from being lost: checks, guards, signals, locks.

It belongs to no engine: `embedded_t5x` calls it at the places where things go
wrong.
"""
