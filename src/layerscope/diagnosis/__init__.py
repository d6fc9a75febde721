"""Checks that layer k is layer k for one model, with their own hooks."""
