"""Fine-tuning: which parameters are trained, LoRA adapters, trainable token rows, what a method needs."""
