"""Hidden states: one forward pass by hooks, pooling, and vectors on disk."""
