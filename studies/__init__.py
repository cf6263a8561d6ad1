"""Studies: many runs compared, with baselines, intervals and tests."""
