"""The tiny language model beside the LLM: which words of a prompt are worth keeping."""
