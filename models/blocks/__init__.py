"""The kinds of an encoder: one file each, with the block that the encoder stacks."""
