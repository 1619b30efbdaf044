"""The client's side of a session: its capabilities, what it is told and shown, and how it counts positions."""
