"""SeqIO tasks and mixtures, one file a data set."""
