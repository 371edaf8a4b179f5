"""Training what the bundled small world needs before distillation: tokenizer, teacher, classifier."""
