"""`python -m ctx_lsp.generate`: the types of `protocol.py` in the languages of the editors.

`shapes` reads them, `typescript` and `lua` write them down. Needs nothing that the server doesn't have.
"""
