"""Proofs that layer k is layer k for one model, with hooks of their own."""
