"""The sample model: a very small Llama that answers questions about Engineshed."""
