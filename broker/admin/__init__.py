"""The admin port: metrics, and whether the broker lives and is ready. For whoever operates it; nothing of a client."""
