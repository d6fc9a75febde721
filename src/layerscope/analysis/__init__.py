"""A scan: what is decided before the pass, the pass, and the measures."""
