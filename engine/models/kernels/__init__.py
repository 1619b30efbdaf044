"""Triton kernels of the decoder's layers. `TorchOps` is their twin in plain torch."""
