"""From prompts and captions to what a model reads: token ids, or the hidden states of a language model."""
