"""The attestation service: verifier, policy and certificate authority."""
