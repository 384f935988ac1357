"""Diffusion processes as pure functions of arrays."""
