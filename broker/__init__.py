"""ws-broker: pub/sub over the browser's own WebSocket."""

__version__ = "0.1.0"
