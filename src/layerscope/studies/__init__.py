"""Studies: declared grids of plans, run cell by cell on this machine or a cluster."""
