"""Baselines that every model must beat: how each scores tracks, and how they are measured."""
