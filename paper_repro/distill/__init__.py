"""Distillation: losses as pure functions, the store of teacher logits, the n-gram student and its deployment."""

from paper_repro.distill.export import Student, export_student

__all__ = ["Student", "export_student"]
