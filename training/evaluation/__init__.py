"""Leave-one-out evaluation over the sharded table, and its metrics."""
