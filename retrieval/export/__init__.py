"""How an export is written: every rank its own rows, compared with the live model, published whole or not at all."""
