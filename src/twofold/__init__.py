"""Twofold: run LLMs with published efficiency techniques on, and predict the same plan elsewhere."""
