"""Model folders: where weights and tokenizers are, and the shape of a model."""
