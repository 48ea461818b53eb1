"""Base and adapters on the same rows: scoring (sums of nll), metrics (statistics), matrix (all cells), results (what is kept)."""
