"""From a trained run to answers: the export, and what is built on it. A server needs an export and torch, no table."""
