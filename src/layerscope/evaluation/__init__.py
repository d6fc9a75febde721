"""Scores of every layer on labelled tasks, by mteb's own evaluators, and probes."""
