"""Every figure that the project claims: `python -m benchmarks`."""
