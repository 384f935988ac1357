"""Pictures: grids and films of images, plots of numbers and points."""
