"""How good a trained model is: its likelihood, and metrics of its samples."""
