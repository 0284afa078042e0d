"""Images to tensors: sources, manifest, split, transforms, arrays."""
