"""The simulator's endpoints, one file for each kind."""
