"""Models: loading, where each architecture keeps its blocks, and taking blocks out."""
