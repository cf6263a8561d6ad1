"""The throughput suite: every figure as a ratio to a baseline that runs in turn with it."""
