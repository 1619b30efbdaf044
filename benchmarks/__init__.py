"""What the engine costs, measured against plain transformers in the same run. See docs/benchmarks.md."""
