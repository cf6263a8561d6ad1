"""What the benchmarks compare with: plain PyTorch, and other libraries in environments of their own."""
