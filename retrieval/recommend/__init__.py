"""What is asked of an open export: what to play next, for one session or many, and what is like a track."""
