"""Gin files of T5X's names; packages so that a wheel carries them."""
