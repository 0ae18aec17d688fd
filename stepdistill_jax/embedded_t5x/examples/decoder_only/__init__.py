"""A decoder without an encoder: language models and prefix LMs."""
