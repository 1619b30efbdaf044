"""KV memory: the block pool, segments of computed KV, their store, and the virtual block table that arranges them.

Host-side bookkeeping only, but for `pool`, which owns the tensors. Knows nothing of chunks' texts or of models.
"""
