"""The recipe of pliant's built-in model: data generator, elastic network, tokeniser."""
