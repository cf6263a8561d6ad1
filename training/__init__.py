"""The loop, checkpoints, evaluation and metrics."""
