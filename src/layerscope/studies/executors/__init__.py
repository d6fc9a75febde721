"""Where cells run: processes on this machine, or actors of Ray."""
