"""Decoder-only students of the Llama family."""
