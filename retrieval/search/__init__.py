"""An approximate index of an export: built, measured against the exact search, chosen, and searched."""
