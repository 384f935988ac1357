"""From a trained run to images: labels, guidance, cascades, files."""
