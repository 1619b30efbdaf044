"""Engines of any kind: finding, starting and asking them, and this server's context on one."""
