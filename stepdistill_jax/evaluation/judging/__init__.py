"""Judging answers by models and by people, and how well judges agree."""
