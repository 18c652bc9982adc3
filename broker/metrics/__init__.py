"""What a broker counts: the shared page that its processes write, and its form for Prometheus."""
