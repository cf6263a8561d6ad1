"""Checkpoints: what they hold, how they lie on disk, and how a run goes on from one."""
