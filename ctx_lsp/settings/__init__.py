"""Options: what they are, where they come from, and what a change of them does."""
