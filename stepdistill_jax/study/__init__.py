"""Many runs as one: planned, trained beside each other, scored, compared."""
