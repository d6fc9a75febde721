"""What a run leaves: the long table, the run folder, and limits by resampling."""
