"""A run folder: its config, checkpoints, partial results and log."""
