"""The engine as a process: HTTP routes, events, who is there, when to end. Documented in docs/http-api.md.

Relies on the `Engine` facade alone; knows nothing of LSP, editors or tensors. Importing this package imports
neither torch nor the web framework: `engine.serve.runtime_file` is used by clients that must stay light.
"""
