"""A miniature suite of language models, trained on documentation, whose checkpoints are committed."""
