"""Leaderboards: rows of runs that verify, one CSV for each data set and threat model."""
