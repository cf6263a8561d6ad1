"""How a job starts. Imports nothing: TorchX loads this package without torch."""
