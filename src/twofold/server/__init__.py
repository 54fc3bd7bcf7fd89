"""The OpenAI-compatible server: a page and an API in one process, engines in workers of their own."""
