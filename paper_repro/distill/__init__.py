"""Distillation: losses as pure functions and the store of teacher logits."""
