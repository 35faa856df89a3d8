"""The ClientApp: a node, the users it hosts, and their training."""
