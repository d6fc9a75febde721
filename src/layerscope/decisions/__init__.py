"""Which layer, which model, which blocks: decided from tables, never from models."""
