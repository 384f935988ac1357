"""Training: state, step, log and the pictures on the way."""
