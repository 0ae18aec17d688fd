"""T5 1.0, T5 1.1, mT5, ByT5 and Flan-T5: one network, sized by gin files."""
