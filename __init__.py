"""Skipwise: session recommendation that learns from what listeners skip, on sharded TorchRec tables."""
