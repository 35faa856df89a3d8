"""Image classifiers: plain torch, no Flower."""
