"""Write a level as a stand-alone model: a GGUF for llama.cpp, or a Hugging Face folder."""

from pliant.export.gguf import export_gguf
from pliant.export.hugging_face import export_hugging_face

__all__ = ["export_gguf", "export_hugging_face"]
