"""Several engine instances under one clock, with requests and their caches moving between them."""
