"""A small PyTorch app in the style of Flower's quickstart."""
