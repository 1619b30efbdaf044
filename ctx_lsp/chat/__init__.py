"""Conversations: what is asked and answered, what is kept of it, and what becomes of the code in answers."""
