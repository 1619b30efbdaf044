"""Running the model: scheduling, forward steps, sampling, and turning sampled tokens into text."""
