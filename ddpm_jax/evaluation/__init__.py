"""How good a trained model is: likelihood over a data split."""
