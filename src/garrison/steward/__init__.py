"""The attestation service: evidence in, short-lived certificates out, or a refusal with reasons."""
