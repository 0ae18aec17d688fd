"""The student: its loss, its weighting schedules, its metrics."""
