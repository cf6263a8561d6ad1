"""Tensors in, tensors out. Knows TorchRec, not files or launchers."""
