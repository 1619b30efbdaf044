"""What the engine costs, how true its answers are and how well it foretells its times. See docs/benchmarks.md."""
