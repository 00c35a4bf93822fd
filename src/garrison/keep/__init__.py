"""The execution layer: WASI host, virtual file system, network, identity, life cycle."""
