"""Training: the loop and its evaluators, the state, the step, validation and the dry run."""
