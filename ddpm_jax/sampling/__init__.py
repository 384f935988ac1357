"""Samplers: one step of each, and the chain that repeats it."""
