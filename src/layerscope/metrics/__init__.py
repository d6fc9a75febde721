"""The measures: pure mathematics, tensors in and numbers out, with no model, tokenizer or file."""
