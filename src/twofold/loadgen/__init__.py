"""A load generator for OpenAI-compatible servers: arrivals, prompts, requests, and what was measured."""
