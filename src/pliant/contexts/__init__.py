"""Contexts that outlive the process: a durable journal of tokens, and stored KV as its cache."""
