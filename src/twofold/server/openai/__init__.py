"""The OpenAI API: what requests may say, and the endpoints that answer them."""
