"""The reference trainer: LoRA fine-tuning, and the trainer's half of the contract with syncd."""
