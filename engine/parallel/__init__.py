"""Tensor parallelism on one host: every rank computes its share of each layer's heads and of each MLP's inner columns.

After Megatron-LM (arXiv 1909.08053). Rank 0 is the engine's own process; the others, its followers, do what it tells.
"""
