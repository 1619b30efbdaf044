"""Engines of any kind: finding, starting and asking them."""
