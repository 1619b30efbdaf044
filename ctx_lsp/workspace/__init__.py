"""The user's texts: which of them are wanted, what there is room for, and the context on an engine that holds them."""
