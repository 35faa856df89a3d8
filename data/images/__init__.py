"""Image data sets, and the clients' shares of them."""
