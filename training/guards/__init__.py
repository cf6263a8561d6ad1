"""What watches a run: signals, non-finite numbers, hung ranks, memory and disk."""
