"""Transferline: from a folder of images to a verified ONNX classifier, station by station."""
