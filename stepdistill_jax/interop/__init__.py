"""Hugging Face and public T5X checkpoints, in and out."""
