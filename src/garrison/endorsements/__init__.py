"""The only place that fetches vendor data."""
