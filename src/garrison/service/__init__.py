"""What the two services share: HTTP errors, TLS, peers' certificates, the server loop."""
