"""What both services share: TLS, the server loop, the log, and how errors are answered."""
