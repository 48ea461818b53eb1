"""Prompts -> answers: sampling (one token), decoding (one forward pass over a cache), answering (rows that come and go)."""
