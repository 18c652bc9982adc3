"""Configuration: schema with units and defaults, loading, validation."""
