"""How messages reach nodes: Ray actors, this process, or Flower's own runtime."""
