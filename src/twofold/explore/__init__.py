"""Search over deployments of a plan: devices, parallelism, limits and techniques under latency, memory and
quality limits."""
