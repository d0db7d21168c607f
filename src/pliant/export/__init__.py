"""Write a level as a stand-alone model: a GGUF for llama.cpp, or a Hugging Face folder."""

from pliant.export.gguf import export_gguf


__all__ = ["export_gguf"]
