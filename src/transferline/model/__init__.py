"""Tensors to logits: backbones as ordered blocks, head, classifier."""
