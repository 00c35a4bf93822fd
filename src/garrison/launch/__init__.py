"""On the host: start a keep in a backend, and supervise it."""
