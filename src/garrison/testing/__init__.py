"""Fake vendor chains, evidence builders, in-memory stores: for tests, never for the product."""
