"""HTTP/1.1 for components of the world `wasi:http/proxy`, and for those that send requests."""
