"""Recommendations from an open export: what to play next, for one session or many, and similar tracks."""
