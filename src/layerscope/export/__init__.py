"""Smaller models: cut or pruned, saved as stock checkpoints, verified in a new process."""
