"""Commands, one file each, and how they are started. Imports nothing: TorchX loads this package without torch."""
