"""One HTML page on a run, or on two side by side: what it was made of, how well it ranks, what its table looks like."""
