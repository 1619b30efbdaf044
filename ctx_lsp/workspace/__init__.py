"""The user's texts: documents, files and notebooks, which of them are wanted, and what there is room for."""
