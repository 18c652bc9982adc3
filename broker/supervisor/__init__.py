"""What outlives a worker: the listening sockets."""
