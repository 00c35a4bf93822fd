"""The drawbridge: a registry of content-addressed workloads, and its client."""
