"""Public checkpoints in and out: safetensors, config.json, tokenizer and image processor, without torch."""
