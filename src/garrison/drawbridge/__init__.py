"""The registry of workloads: content-addressed trees under immutable tags."""
