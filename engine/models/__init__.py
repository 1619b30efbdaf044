"""Getting a model onto this machine, and running it: catalogue, fetching, GGUF conversion, decoders, loading.

Importing the package loads nothing: `catalogue`, `fetch` and `resolve` are free of torch, the decoders are not.
"""
