"""The plan for a TPU topology, without a TPU."""
