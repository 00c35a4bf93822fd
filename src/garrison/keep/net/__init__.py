"""The workload's network: policy, transparent TLS 1.3, and sockets for the WASI host.

Import from the modules; none of them is needed by a workload that opens no connection.
"""
