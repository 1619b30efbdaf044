"""JSON-RPC: framing, transports and the dispatch of messages. Knows nothing of chunks or engines."""
