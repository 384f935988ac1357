"""Denoising diffusion models of images in JAX and Flax."""
