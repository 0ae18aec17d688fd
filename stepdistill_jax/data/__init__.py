"""SeqIO: sources, preprocessors, pairing, the feature converter."""
