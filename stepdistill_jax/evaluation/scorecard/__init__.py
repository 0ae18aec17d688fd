"""One page on a distillation: quality, cost, and what to doubt."""
