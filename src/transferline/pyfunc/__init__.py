"""A registered model inside MLflow, as its flavour `python_function`: shipped, with the whole package, in each version.

Needs mlflow, onnxruntime, numpy and Pillow alone.
"""
