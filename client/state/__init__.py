"""What a node keeps between rounds."""
