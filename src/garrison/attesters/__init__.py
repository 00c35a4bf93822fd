"""Inside a TEE: obtain evidence."""
