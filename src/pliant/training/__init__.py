"""What everything that is trained offline shares: AdamW steps, and checkpoints to go on from."""
