"""What the benchmarks share: timing, reports, comparison and synthetic work."""
