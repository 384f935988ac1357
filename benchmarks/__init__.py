"""Measurements of speed; see docs for what they showed."""
