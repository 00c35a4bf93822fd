"""Verified claims and a policy in; an attestation result with every check out."""
