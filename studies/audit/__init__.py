"""What the skips of a dataset say before any model is trained, and whether they pay in runs."""
