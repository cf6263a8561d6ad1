"""The run directory: how a run starts, where it stands, and what it reports."""
