"""Runs the scheduler's own policy, and others to compare with, on a trace of jobs."""
