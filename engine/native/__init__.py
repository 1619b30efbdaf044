"""C for the CPU: steps of few tokens through a decoder of the Llama family, over packed or dense weights."""
