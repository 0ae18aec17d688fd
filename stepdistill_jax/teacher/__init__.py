"""Everything up to the distillation records: ask, cache, parse, audit."""
