"""T5 with scanned, rematerialized layers: compiles fast, trains deep."""
