"""Errors, files, ranks, options and packages: what every other package uses. Knows nothing of the domain."""
